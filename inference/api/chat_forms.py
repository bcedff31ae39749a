"""The body of POST /v1/chat/completions, as OpenAI's."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from inference.api.forms import Form, SamplingForm, Wanted, json_grammar
from inference.api.parameters import Ignored, Refused
from inference.engine import MOST_ALTERNATIVES
from inference.jobs import MOST_CHOICES

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class TextPart(Form):
    """A part of a message. Only text is understood."""

    type: Literal["text"]
    text: str


class CalledFunction(Form):
    """Which function was called; `arguments` is JSON."""

    name: Name
    arguments: str


class ToolCall(Form):
    """A call in an earlier answer."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class Message(Form):
    """One turn. Fields that answers carry are accepted, so that they can be sent back."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: None = None
    annotations: list[None] | None = None
    audio: None = None
    function_call: None = None
    parsed: Any = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.tool_calls is not None and self.role != "assistant":
            raise ValueError("only an assistant's message has tool_calls")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("a tool's message, and no other, has a tool_call_id")
        if self.content is None and not self.tool_calls:
            raise ValueError("content may be null only beside tool_calls")
        return self

    @property
    def text(self) -> str:
        """Its content."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class Function(Form):
    """A function on offer; `parameters` is the JSON Schema of an object."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        """Left out, there are none."""
        nothing = {"type": "object", "properties": {}, "additionalProperties": False}
        return nothing if self.parameters is None else self.parameters


class Tool(Form):
    """A tool on offer: a function."""

    type: Literal["function"]
    function: Function


class NamedFunction(Form):
    """A function's name."""

    name: Name


class NamedTool(Form):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Form):
    """What `response_format` holds; the answer follows it, `strict` or not."""

    name: Name
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class PlainFormat(Form):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Form):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormat(Form):
    """JSON that a schema describes."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


Format = Annotated[PlainFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class StreamOptions(Form):
    """OpenAI's."""

    include_usage: bool = False
    include_obfuscation: Annotated[bool | None, Ignored("chunks are never padded")] = None


User = Annotated[
    str | None,
    Field(max_length=256),
    Ignored("whose request it is says the key; `X-Request-ID` labels it"),
]
ServiceTier = Annotated[
    Literal["auto", "default", "flex", "priority", "scale", "fast"] | None,
    Ignored("the organization's plan decides the priority"),
]
CacheKey = Annotated[
    str | None, Ignored("an organization's prompts are found in its cache by themselves")
]
CacheOptions = Annotated[dict[str, Any] | None, Ignored("the cache looks after itself")]
CacheRetention = Annotated[
    Literal["in_memory", "in-memory", "24h"] | None, Ignored("the cache looks after itself")
]
SafetyIdentifier = Annotated[str | None, Field(max_length=256), Ignored("users are not watched")]
Moderation = Annotated[None, Refused("call /v1/moderations")]


class ChatForm(SamplingForm):
    """POST /v1/chat/completions."""

    model: str
    messages: list[Message] = Field(
        min_length=1,
        max_length=2048,
        description="Text alone; roles system, developer, user, assistant and tool.",
    )
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    response_format: Format | None = None
    tools: list[Tool] | None = Field(
        None, min_length=1, max_length=128, description="Functions alone."
    )
    tool_choice: Literal["none", "auto", "required"] | NamedTool = "auto"
    parallel_tool_calls: bool = True
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_ALTERNATIVES)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1, le=MOST_CHOICES, description="How many answers.")
    metadata: dict[str, str] | None = Field(
        None, description="Its `project` books the request to a project."
    )
    user: User = None
    safety_identifier: SafetyIdentifier = None
    service_tier: ServiceTier = None
    prompt_cache_key: CacheKey = None
    prompt_cache_options: CacheOptions = None
    prompt_cache_retention: CacheRetention = None
    prediction: Annotated[
        dict[str, Any] | None, Ignored("it would only make the same answer sooner")
    ] = None
    store: Annotated[Literal[False] | None, Refused("chats are not kept; /v1/responses are")] = None
    modalities: Annotated[list[Literal["text"]] | None, Refused("answers are text")] = None
    audio: Annotated[None, Refused("answers are text")] = None
    reasoning_effort: Annotated[
        Literal["none"] | None, Refused("no model here reasons before it answers")
    ] = None
    verbosity: Annotated[Literal["medium"] | None, Refused("tell the model in the prompt")] = None
    web_search_options: Annotated[None, Refused("nothing here searches the web")] = None
    functions: Annotated[None, Refused("use tools")] = None
    function_call: Annotated[None, Refused("use tool_choice")] = None
    moderation: Moderation = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        names = [tool.function.name for tool in self.tools or ()]
        if len({*names}) != len(names):
            raise ValueError("tools: two functions have the same name")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice: no tool is called {self.tool_choice.function.name!r}")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice: required, but there are no tools")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: needs logprobs true")
        if self.structured_outputs is not None and self.response_format is not None:
            raise ValueError("structured_outputs: there is a response_format already")
        return self

    @property
    def alternatives(self) -> int | None:
        """How many log-probabilities a token, beside its own; None for none at all."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def wanted(self) -> Wanted | None:
        """What the answer's text must look like."""
        match self.response_format:
            case JsonObjectFormat():
                return Wanted(json_grammar({"type": "object"}), "response_format")
            case JsonSchemaFormat(json_schema=described):
                grammar = json_grammar(described.schema_)
                return Wanted(grammar, "response_format.json_schema.schema")
            case _:
                return super().wanted
