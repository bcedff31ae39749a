"""The body of POST /v1/responses, and the chat that it comes to."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from inference.api.chat_forms import (
    CacheKey,
    CacheOptions,
    CacheRetention,
    ChatForm,
    Moderation,
    Name,
    SafetyIdentifier,
    ServiceTier,
    User,
)
from inference.api.forms import Form
from inference.api.parameters import Ignored, Ours, Refused
from inference.engine import MOST_ALTERNATIVES
from kit.edge import check
from kit.errors import Refused as Refusal

LOGPROBS = "message.output_text.logprobs"
_OTHERS = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
]
Includes = list[Literal["message.output_text.logprobs"] | _OTHERS]
Status = Annotated[Literal["in_progress", "completed", "incomplete"] | None, Field()]


class InputText(Form):
    """Text that was said to the model."""

    type: Literal["input_text"]
    text: str


class OutputText(Form):
    """Text of an earlier answer; what else it carries may come along."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    parsed: Any = None


def _kind(of: Any) -> str:
    kind = of.get("type", "message") if isinstance(of, dict) else getattr(of, "type", "")
    return f"[{kind}]"


Part = Annotated[
    Annotated[InputText, Tag("[input_text]")] | Annotated[OutputText, Tag("[output_text]")],
    Discriminator(
        _kind,
        custom_error_type="unknown_part",
        custom_error_message="parts are input_text, and output_text of earlier answers",
    ),
]


class MessageItem(Form):
    """A turn: what was said to the model, or an earlier answer as it came."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Part]
    id: str | None = None
    status: Status = None
    phase: str | None = None

    @property
    def text(self) -> str:
        """Its content."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class CallItem(Form):
    """A call of an earlier answer; `arguments` is JSON."""

    type: Literal["function_call"]
    call_id: str = Field(min_length=1, max_length=64)
    name: Name
    arguments: str
    id: str | None = None
    status: Status = None
    parsed_arguments: Any = None
    caller: None = None
    namespace: None = None
    async_: None = None


class OutputItem(Form):
    """What a called function gave."""

    type: Literal["function_call_output"]
    call_id: str = Field(min_length=1, max_length=64)
    output: str | list[InputText]
    id: str | None = None
    status: Status = None

    @property
    def text(self) -> str:
        """As the model reads it."""
        if isinstance(self.output, str):
            return self.output
        return "".join(part.text for part in self.output)


Item = Annotated[
    Annotated[MessageItem, Tag("[message]")]
    | Annotated[CallItem, Tag("[function_call]")]
    | Annotated[OutputItem, Tag("[function_call_output]")],
    Discriminator(
        _kind,
        custom_error_type="unknown_item",
        custom_error_message="items are messages, function_call and function_call_output",
    ),
]


class FunctionTool(Form):
    """A function on offer; `parameters` is the JSON Schema of an object."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionChoice(Form):
    """The function that must be called."""

    type: Literal["function"]
    name: Name


class PlainTextFormat(Form):
    """Any text."""

    type: Literal["text"]


class JsonObjectTextFormat(Form):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaTextFormat(Form):
    """JSON that a schema describes; the answer follows it, `strict` or not."""

    type: Literal["json_schema"]
    name: Name
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


Format = Annotated[
    PlainTextFormat | JsonObjectTextFormat | JsonSchemaTextFormat, Field(discriminator="type")
]


class TextForm(Form):
    """What the answer's text is to look like."""

    format: Format | None = None
    verbosity: Annotated[Literal["medium"] | None, Refused("tell the model in the prompt")] = None


class Reasoning(Form):
    """Of models that reason first."""

    effort: Annotated[
        Literal["none"] | None, Refused("no model here reasons before it answers")
    ] = None
    summary: Annotated[str | None, Ignored("there is no reasoning to sum up")] = None
    generate_summary: Annotated[str | None, Ignored("there is no reasoning to sum up")] = None


class ResponseStreamOptions(Form):
    """OpenAI's."""

    include_obfuscation: Annotated[bool | None, Ignored("events are never padded")] = None


MetadataName = Annotated[str, Field(max_length=64)]
MetadataText = Annotated[str, Field(max_length=512)]


class ResponseForm(Form):
    """POST /v1/responses."""

    model: str
    input: str | list[Item] = Field(
        description="Text, or messages, function_call and function_call_output items; text alone."
    )
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: Annotated[int | None, Ours("as chats have it")] = Field(None, ge=-(2**63), lt=2**63)
    top_logprobs: int | None = Field(
        None, ge=0, le=MOST_ALTERNATIVES, description=f"`include` has to hold `{LOGPROBS}`."
    )
    include: Includes | None = Field(
        None, description=f"`{LOGPROBS}`; there is nothing of the other kinds."
    )
    text: TextForm | None = None
    tools: list[FunctionTool] | None = Field(None, max_length=128, description="Functions alone.")
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    store: bool | None = Field(
        None, description="Default true: 30 days, unless the organization has texts kept otherwise."
    )
    background: bool | None = None
    metadata: dict[MetadataName, MetadataText] | None = Field(
        None, max_length=16, description="Its `project` books the request to a project."
    )
    truncation: Annotated[
        Literal["disabled"] | None, Refused("what does not fit is refused, with the numbers")
    ] = None
    user: User = None
    safety_identifier: SafetyIdentifier = None
    service_tier: ServiceTier = None
    prompt_cache_key: CacheKey = None
    prompt_cache_options: CacheOptions = None
    prompt_cache_retention: CacheRetention = None
    max_tool_calls: Annotated[
        int | None, Field(ge=1), Ignored("it counts tools that OpenAI runs, of which none is here")
    ] = None
    reasoning: Reasoning | None = None
    moderation: Moderation = None
    conversation: Annotated[None, Refused("use previous_response_id")] = None
    prompt: Annotated[None, Refused("no prompts are kept here; send instructions and input")] = None
    context_management: Annotated[None, Refused("nothing is compacted")] = None
    image: Annotated[None, Refused("answers are text")] = None
    background_options: Annotated[None, Refused("they run as soon as there is room")] = None
    access_programs: Annotated[None, Refused("there are none")] = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError(f"top_logprobs: include has to hold {LOGPROBS}")
        if self.background and self.store is False:
            raise ValueError("background: it has to be stored; leave out store")
        return self

    @property
    def logprobs(self) -> bool:
        """Whether the answer's tokens come with theirs."""
        return LOGPROBS in (self.include or ())

    @property
    def items(self) -> list[dict[str, Any]]:
        """What was sent, as it is kept and listed."""
        if isinstance(self.input, str):
            return [{"type": "message", "role": "user", "content": self.input}]
        return [each.model_dump(exclude={"id", "status"}) for each in self.input]


def chat_of(form: ResponseForm, context: Sequence[Mapping[str, Any]]) -> ChatForm:
    """The chat that answers it; `context` are the items before its own. Raises `Invalid`."""
    messages = [*_turns([*context, *form.items])]
    if form.instructions is not None:
        messages.insert(0, {"role": "system", "content": form.instructions})
    body: dict[str, Any] = {
        "model": form.model,
        "messages": messages,
        "max_tokens": form.max_output_tokens,
        "temperature": form.temperature,
        "top_p": form.top_p,
        "seed": form.seed,
        "logprobs": form.logprobs or None,
        "top_logprobs": form.top_logprobs,
        "response_format": _format(form.text),
        "metadata": form.metadata,
        "parallel_tool_calls": form.parallel_tool_calls is not False,
    }
    if form.tools:
        body["tools"] = [
            {"type": "function", "function": each.model_dump(exclude={"type"})}
            for each in form.tools
        ]
        body["tool_choice"] = _choice(form)
    return check(body, ChatForm)


def _choice(form: ResponseForm) -> Any:
    if isinstance(form.tool_choice, FunctionChoice):
        return {"type": "function", "function": {"name": form.tool_choice.name}}
    return form.tool_choice or "auto"


def _format(text: TextForm | None) -> dict[str, Any] | None:
    match text.format if text else None:
        case JsonSchemaTextFormat() as described:
            fields = described.model_dump(by_alias=True, exclude={"type"})
            return {"type": "json_schema", "json_schema": fields}
        case JsonObjectTextFormat():
            return {"type": "json_object"}
        case _:
            return None


def _turns(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A chat's messages: calls that follow each other, or an answer's text, are of one turn."""
    turns: list[dict[str, Any]] = []
    for item in items:
        if item["type"] == "message":
            turns.append({"role": item["role"], "content": _text(item["content"])})
        elif item["type"] == "function_call_output":
            given = {"tool_call_id": item["call_id"], "content": _text(item["output"])}
            turns.append({"role": "tool", **given})
        else:
            if not turns or turns[-1]["role"] != "assistant":
                turns.append({"role": "assistant", "content": None})
            function = {"name": item["name"], "arguments": item["arguments"]}
            call = {"id": item["call_id"], "type": "function", "function": function}
            turns[-1].setdefault("tool_calls", []).append(call)
    return turns


def _text(content: str | Sequence[Mapping[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


_WORDS = (
    ("response_format.json_schema.schema", "text.format.schema"),
    ("response_format", "text.format"),
    (".function.parameters", ".parameters"),
    ("max_tokens", "max_output_tokens"),
)


def in_its_words(refusal: Refusal) -> Refusal:
    """A chat's refusal as this endpoint's caller understands it: with the fields that they sent."""
    param, message = refusal.param or "", refusal.message
    if param.startswith("messages"):
        message, param = message.replace(param, "input"), "input"
    for chats, ours in _WORDS:
        param, message = param.replace(chats, ours), message.replace(chats, ours)
    refusal.param, refusal.message = param or None, message
    return refusal
