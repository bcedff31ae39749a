"""Functions that a chat may call: how the model is told, held to the form, and understood.

The form is that of Hermes and Qwen: the answer may be text, then calls, each
`<tool_call>\\n{"name": …, "arguments": …}\\n</tool_call>`. A grammar holds every answer to it, so
that whatever begins as a call is a whole call to a function on offer, with arguments that follow
its schema.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inference.api.chat_forms import ChatForm, Message, NamedTool, Tool, ToolCall
from inference.api.forms import Wanted
from inference.engine import Grammar, GrammarKind
from kit.errors import Invalid

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_MOST_CALLS = 16
_MORE = {
    *("additionalProperties", "patternProperties", "unevaluatedProperties", "propertyNames"),
    *("$ref", "allOf", "anyOf", "oneOf", "not", "if", "minProperties"),
}
"""What can ask for properties beside those named."""
_ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_HEAD = re.compile(r'\s*\{"name": ("(?:[^"\\]|\\.)*"), "arguments": ')


def offered(form: ChatForm) -> list[Tool]:
    """The tools that the answer may call; raises `Invalid` for one that cannot be described."""
    if form.tools is None or form.tool_choice == "none":
        return []
    for number, tool in enumerate(form.tools):
        kind = tool.function.schema_of_arguments.get("type")
        if kind != "object":
            param = f"tools.{number}.function.parameters"
            raise Invalid(f'{param}: its "type" must be "object", not {kind!r}.', param=param)
    if isinstance(form.tool_choice, NamedTool):
        name = form.tool_choice.function.name
        return [tool for tool in form.tools if tool.function.name == name]
    return form.tools


def turns(
    messages: Sequence[Message], tools: Sequence[Tool], *, native: bool, must: bool
) -> list[dict[str, Any]]:
    """The messages as the chat template takes them; `developer` is OpenAI's later `system`.

    A template that is not `native`, which knows nothing of tools, gets plain turns: tools at the
    end of the first system turn, calls in the assistant's turn as it would write them, and what a
    tool gave in a user's turn. Raises `Invalid`.
    """
    _check_calls(messages)
    found = [_native(message) if native else _turn(message) for message in messages]
    if tools and not native:
        told = _instructions(tools, must=must)
        if found[0]["role"] == "system":
            found[0] = {"role": "system", "content": f"{found[0]['content']}\n\n{told}"}
        else:
            found.insert(0, {"role": "system", "content": told})
    return found


def described(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The tools for a template that knows them."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.function.name,
                "description": tool.function.description or "",
                "parameters": tool.function.schema_of_arguments,
            },
        }
        for tool in tools
    ]


def wanted(form: ChatForm, tools: Sequence[Tool]) -> Wanted | None:
    """What the answer must look like, calls included. Raises `Invalid` where that is unclear."""
    text = form.wanted
    if not tools:
        return text
    if text is not None and text.grammar.kind is not GrammarKind.json_schema:
        raise Invalid(f"{text.param} cannot be combined with tools.", param=text.param)
    several = form.parallel_tool_calls and not isinstance(form.tool_choice, NamedTool)
    rules = [f"call_{n}: {_call(tool)}" for n, tool in enumerate(tools)]
    names = " | ".join(f"call_{n}" for n in range(len(tools)))
    rest = f'("\\n" head call){{0,{_MOST_CALLS - 1}}}' if several else ""
    if form.tool_choice != "auto":
        start, head = f"head call {rest}", f"head: {json.dumps(OPEN)}"
    elif text is not None:
        schema = {**json.loads(text.grammar.source), "x-guidance": _ONE_LINE}
        start = f"answer | head call {rest}"
        head = f"head: {json.dumps(OPEN)}\nanswer: %json {json.dumps(schema)}"
    else:
        start = f"TEXT | first call {rest}"
        head = f"first[lazy]: TEXT {json.dumps(OPEN)}\nhead: {json.dumps(OPEN)}\nTEXT: /(.|\\n)*/"
    lark = "\n".join(["%llguidance {}", f"start: {start}", head, f"call: {names}", *rules])
    return Wanted(Grammar(GrammarKind.lark, lark), "tools")


def _call(tool: Tool) -> str:
    schema = {**_named_only(tool.function.schema_of_arguments), "x-guidance": _ONE_LINE}
    before = f'\n{{"name": {json.dumps(tool.function.name)}, "arguments": '
    return f"{json.dumps(before)} %json {json.dumps(schema)} {json.dumps('}' + chr(10) + CLOSE)}"


def _named_only(schema: Mapping[str, Any]) -> dict[str, Any]:
    """What a function names as its arguments, and no others, unless it says that it takes some: an
    answer that keeps to this keeps to the schema, and functions are seldom ready for more."""
    if "properties" not in schema or _MORE & schema.keys():
        return dict(schema)
    return {**schema, "additionalProperties": False}


def _instructions(tools: Sequence[Tool], *, must: bool) -> str:
    functions = "\n".join(
        json.dumps(each["function"], ensure_ascii=False) for each in described(tools)
    )
    when = "You must call one now." if must else "Call one where it helps; otherwise just answer."
    return (
        f"You can call these functions:\n<tools>\n{functions}\n</tools>\n{when}\n"
        f"To call one, write:\n"
        f'{OPEN}\n{{"name": "the function\'s name", "arguments": {{…}}}}\n{CLOSE}'
    )


def _native(message: Message) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    turn: dict[str, Any] = {"role": role, "content": message.text}
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "type": "function",
                "function": {"name": call.function.name, "arguments": _arguments(call)},
            }
            for call in message.tool_calls
        ]
    return turn


def _arguments(call: ToolCall) -> Any:
    """As an object, which templates write as JSON; as text where it is none."""
    try:
        return json.loads(call.function.arguments)
    except ValueError:
        return call.function.arguments


def _turn(message: Message) -> dict[str, Any]:
    content = message.text
    if message.role == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    calls = [
        f'{OPEN}\n{{"name": {json.dumps(call.function.name)}, '
        f'"arguments": {call.function.arguments}}}\n{CLOSE}'
        for call in message.tool_calls or ()
    ]
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": "\n".join([content] * bool(content) + calls)}


def _check_calls(messages: Sequence[Message]) -> None:
    called: set[str] = set()
    for number, message in enumerate(messages):
        called |= {call.id for call in message.tool_calls or ()}
        if message.tool_call_id is not None and message.tool_call_id not in called:
            param = f"messages.{number}.tool_call_id"
            raise Invalid(
                f"{param}: no call {message.tool_call_id[:80]!r} stands before.", param=param
            )


@dataclass(frozen=True, slots=True)
class Said:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Called:
    """A part of the call number `index`: its beginning where `name` is there, then arguments."""

    index: int
    name: str | None
    arguments: str


class Reader:
    """Takes an answer's text apart as it comes, wherever its pieces are cut."""

    def __init__(self) -> None:
        self.calls = 0
        self._held = ""
        self._state = "text"
        self._depth = 0
        self._quoted = self._escaped = False

    def feed(self, text: str) -> list[Said | Called]:
        """What this text makes known."""
        self._held += text
        return [*self._read()]

    def flush(self) -> list[Said | Called]:
        """What was held back, now that no more comes."""
        held, self._held = self._held, ""
        return [Said(held)] if self._state == "text" and held.strip() else []

    def _read(self) -> Iterator[Said | Called]:
        while True:
            before = (self._state, self._held)
            match self._state:
                case "text":
                    yield from self._text()
                case "head":
                    yield from self._head()
                case "arguments":
                    yield from self._arguments()
                case _:
                    self._tail()
            if (self._state, self._held) == before:
                return

    def _text(self) -> Iterator[Said]:
        said, found, rest = self._held.partition(OPEN)
        if found:
            self._state, self._held = "head", rest
        else:
            border = len(said) - _undecided(said)
            said, self._held = said[:border], said[border:]
        if self.calls and not said.strip():
            return
        if said:
            yield Said(said)

    def _head(self) -> Iterator[Called]:
        found = _HEAD.match(self._held)
        if found:
            self._state, self._held = "arguments", self._held[found.end() :]
            self._depth, self._quoted, self._escaped = 0, False, False
            self.calls += 1
            yield Called(self.calls - 1, json.loads(found[1]), "")

    def _arguments(self) -> Iterator[Called]:
        end = next((n for n, letter in enumerate(self._held, 1) if self._closes(letter)), None)
        arguments = self._held[:end]
        self._held = self._held[len(arguments) :]
        if end is not None:
            self._state = "tail"
        if arguments:
            yield Called(self.calls - 1, None, arguments)

    def _closes(self, letter: str) -> bool:
        """Whether the arguments' object ends with this letter."""
        if self._escaped:
            self._escaped = False
        elif self._quoted:
            self._escaped = letter == "\\"
            self._quoted = letter != '"'
        elif letter == '"':
            self._quoted = True
        elif letter in "{[":
            self._depth += 1
        elif letter in "}]":
            self._depth -= 1
            return self._depth == 0
        return False

    def _tail(self) -> None:
        _, found, rest = self._held.partition(CLOSE)
        if found:
            self._state, self._held = "text", rest


def _undecided(text: str) -> int:
    """How many last letters may begin a call."""
    for length in range(min(len(OPEN) - 1, len(text)), 0, -1):
        if OPEN.startswith(text[-length:]):
            return length
    return 0


def deltas(events: Sequence[Said | Called], request: str) -> dict[str, Any]:
    """OpenAI's delta of these events: text, and parts of calls. Empty if there is nothing."""
    content = "".join(event.text for event in events if isinstance(event, Said))
    calls: dict[int, dict[str, Any]] = {}
    for event in events:
        if isinstance(event, Called):
            part = calls.setdefault(event.index, {"index": event.index, "function": {}})
            if event.name is not None:
                part |= {"id": f"call_{request}{event.index:02}", "type": "function"}
                part["function"] |= {"name": event.name, "arguments": ""}
            function = part["function"]
            function["arguments"] = function.get("arguments", "") + event.arguments
    return ({"content": content} if content else {}) | (
        {"tool_calls": [*calls.values()]} if calls else {}
    )


def message(events: Sequence[Said | Called], request: str) -> dict[str, Any]:
    """OpenAI's message of all these events."""
    whole = deltas(events, request)
    calls: list[Mapping[str, Any]] = whole.get("tool_calls", [])
    found: dict[str, Any] = {
        "role": "assistant",
        "content": whole.get("content", None if calls else ""),
        "refusal": None,
        "annotations": [],
    }
    if calls:
        found["tool_calls"] = [
            {name: value for name, value in call.items() if name != "index"} for call in calls
        ]
    return found
