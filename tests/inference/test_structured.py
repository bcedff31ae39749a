"""Structured answers, tools and log-probabilities at the HTTP edge, as OpenAI's client reads them.

The echo model says its last message again, as far as the grammar lets it: so a message that is a
call makes a call.
"""

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import httpx2
import pytest
from django.test import AsyncClient
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI, pydantic_function_tool
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from config.asgi import application
from inference.api.chat_forms import ChatForm
from inference.api.tools import Called, Reader, Said, message, offered, turns
from inference.catalog.offers import Offer
from inference.worker import Host
from tenants.models import Organization
from tests import factories
from tests.inference.parts import ECHO, serving

pytestmark = pytest.mark.django_db(transaction=True)

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 22}}\n</tool_call>'
CALL_NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


@pytest.fixture
def key(account: Any, acme: Organization) -> str:
    """Acme's program's key."""
    return factories.api_key(acme)[1]


def asked(content: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {"model": ECHO, "messages": messages, "max_tokens": 200, **fields}


async def post(key: str, body: Mapping[str, Any], path: str = "/v1/chat/completions") -> Any:
    return await AsyncClient().post(
        path,
        data=json.dumps(body).encode(),
        content_type="application/json",
        headers={"Authorization": f"Bearer {key}"},
    )


async def whole(key: str, body: Mapping[str, Any]) -> ChatCompletion:
    """The answer, in OpenAI's schema to the letter."""
    response = await post(key, body)
    assert response.status_code == 200, response.content
    found = ChatCompletion.model_validate(response.json(), strict=False)
    assert response.json() == found.model_dump(exclude_unset=True)
    return found


async def streamed(key: str, body: Mapping[str, Any]) -> ChatCompletion:
    """The answer as OpenAI's client puts its chunks together."""
    response = await post(key, {**body, "stream": True, "stream_options": {"include_usage": True}})
    raw = b"".join([part async for part in response.streaming_content]).decode()
    lines = [line.removeprefix("data: ") for line in raw.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for line in lines:
        chunk = ChatCompletionChunk.model_validate_json(line)
        assert json.loads(line) == chunk.model_dump(exclude_unset=True)
        state.handle_chunk(chunk)
    return ChatCompletion.model_validate(state.current_completion_snapshot.model_dump())


def essence(found: ChatCompletion) -> Any:
    """What must not depend on the way it came, nor on which request it was."""
    [choice] = found.choices
    calls = choice.message.tool_calls or []
    names = [(call.function.name, call.function.arguments) for call in calls]  # type: ignore[union-attr]
    logprobs = choice.logprobs.content if choice.logprobs else None
    used = found.usage and found.usage.total_tokens
    return choice.message.content or "", names, choice.finish_reason, logprobs, used


@pytest.mark.parametrize(
    ("content", "fields", "expected"),
    [
        (CALL, {"tools": [ADD]}, ("", [("add", '{"a": 1, "b": 22}')], "tool_calls")),
        (
            f"Well. {CALL}\n{CALL_NOW}",
            {"tools": [ADD, NOW]},
            ("Well. ", [("add", '{"a": 1, "b": 22}'), ("now", "{}")], "tool_calls"),
        ),
        ("No <tool call", {"tools": [ADD]}, ("No <tool call", [], "stop")),
        (CALL, {"tools": [ADD], "tool_choice": "none"}, (CALL, [], "stop")),
        (CALL, {}, (CALL, [], "stop")),
        (
            CALL_NOW,
            {"tools": [ADD, NOW], "tool_choice": "required"},
            ("", [("now", "{}")], "tool_calls"),
        ),
        (
            f"{CALL_NOW}\n{CALL_NOW}",
            {"tools": [NOW], "tool_choice": "required", "parallel_tool_calls": False},
            ("", [("now", "{}")], "tool_calls"),
        ),
        (
            "hello",
            {"tools": [ADD, NOW], "tool_choice": {"type": "function", "function": {"name": "now"}}},
            ("", [("now", "{}")], "tool_calls"),
        ),
        (CALL, {"tools": [ADD], "max_tokens": 50}, ("", [("add", '{"a": 1, ')], "length")),
    ],
)
async def test_tools(key: str, host: Host, content: str, fields: Any, expected: Any) -> None:
    with serving(host):
        found = await whole(key, asked(content, **fields))
        again = await streamed(key, asked(content, **fields))
    assert essence(found)[:3] == expected
    assert essence(again) == essence(found)


@pytest.mark.parametrize(
    ("more", "keys"), [({}, {"a"}), ({"additionalProperties": True}, {"a", "c"})]
)
async def test_arguments_are_those_that_the_function_names(
    key: str, host: Host, more: Any, keys: set[str]
) -> None:
    """Unless it says that it takes others."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], **more}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    content = '<tool_call>\n{"name": "f", "arguments": {"a": 1, "c": 3}}\n</tool_call>'
    one = {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    with serving(host):
        found = await whole(key, asked(content, **one))
    [call] = found.choices[0].message.tool_calls or []
    assert json.loads(call.function.arguments).keys() == keys  # type: ignore[union-attr]


async def test_what_a_call_gave_can_be_sent_back(key: str, host: Host) -> None:
    with serving(host):
        first = await whole(key, asked(CALL, tools=[ADD]))
        said = first.choices[0].message
        assert said.tool_calls is not None
        body = asked(CALL, tools=[ADD])
        result = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "23"}
        body["messages"] += [said.model_dump(exclude_none=True), result]
        found = await whole(key, body)
    assert found.choices[0].message.content == "<tool_response>\n23\n</tool_response>"


async def test_json_by_schema_and_as_any_object(key: str, host: Host) -> None:
    schema = ADD["function"]["parameters"]  # type: ignore[index]
    format_ = {"type": "json_schema", "json_schema": {"name": "sum", "schema": schema}}
    with serving(host):
        found = await whole(key, asked('{"a": 1, "b": 22}', response_format=format_))
        other = await whole(key, asked('{"x": []}', response_format={"type": "json_object"}))
        cut = await whole(key, asked("hi", response_format=format_, max_tokens=4))
    assert json.loads(found.choices[0].message.content or "") == {"a": 1, "b": 22}
    assert json.loads(other.choices[0].message.content or "") == {"x": []}
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ('{"a"', "length")


@pytest.mark.parametrize(
    ("outputs", "prompt", "text"),
    [
        ({"choice": ["yes", "no"]}, "not at all", "no"),
        ({"regex": "[a-c]+d"}, "abcd", "abcd"),
        ({"json": {"enum": ["é"]}}, "?", '"é"'),
    ],
)
async def test_structured_outputs(
    key: str, host: Host, outputs: Any, prompt: str, text: str
) -> None:
    body = {"prompt": prompt, "structured_outputs": outputs}
    with serving(host):
        response = await post(key, body, "/api/v1/infer")
    assert response.json()["text"] == text


async def test_logprobs_whole_and_streamed(key: str, host: Host) -> None:
    body = asked("hé", logprobs=True, top_logprobs=2)
    with serving(host):
        found, again = await whole(key, body), await streamed(key, body)
        plain = await whole(key, asked("hé"))
    logprobs = found.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    content = logprobs.content
    assert [token.bytes for token in content] == [[104], [0xC3], [0xA9]]
    assert [token.logprob for token in content] == [0, 0, 0]
    assert content[0].top_logprobs[0].token == "h"
    assert essence(again) == essence(found)
    assert plain.choices[0].logprobs is None


class Sum(BaseModel):
    """What a caller's program wants."""

    a: int
    b: int


async def test_openais_own_client_parses_answers_and_calls(key: str, host: Host) -> None:
    transport = httpx2.ASGITransport(application)
    tool = pydantic_function_tool(Sum, name="add")
    async with httpx2.AsyncClient(transport=transport) as http:
        client = AsyncOpenAI(base_url="http://testserver/v1", api_key=key, http_client=http)
        with serving(host):
            found = await client.chat.completions.parse(
                model=ECHO,
                messages=[{"role": "user", "content": '{"a": 1, "b": 22}'}],
                response_format=Sum,
            )
            called = await client.chat.completions.parse(
                model=ECHO,
                messages=[{"role": "user", "content": CALL}],
                tools=[tool],
                tool_choice="required",
                max_tokens=200,
            )
    assert found.choices[0].message.parsed == Sum(a=1, b=22)
    [call] = called.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == Sum(a=1, b=22)


def test_tools_are_told_in_the_system_turn_and_calls_as_they_are_written() -> None:
    call = {"id": "c1", "function": {"name": "add", "arguments": '{"a": 1, "b": 22}'}}
    messages = [
        {"role": "user", "content": "1 + 22?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "23"},
    ]
    form = ChatForm.model_validate({"model": "m", "messages": messages, "tools": [ADD]})
    told, asked_, called, gave = turns(form.messages, offered(form), native=False, must=False)
    assert told["role"] == "system"
    assert json.dumps(ADD["function"]) in told["content"]
    assert asked_ == {"role": "user", "content": "1 + 22?"}
    assert called == {"role": "assistant", "content": CALL}
    assert gave["content"] == "<tool_response>\n23\n</tool_response>"
    plain, called, gave = turns(form.messages, offered(form), native=True, must=False)
    assert plain == asked_
    assert called["tool_calls"][0]["function"]["arguments"] == {"a": 1, "b": 22}
    assert gave == {"role": "tool", "content": "23"}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a schema with an unknown type": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "thing"}},
            }
        },
        "response_format.json_schema.schema",
    ),
    "a broken regex": ({"structured_outputs": {"regex": "(a"}}, "structured_outputs.regex"),
    "an unknown kind": ({"response_format": {"type": "xml"}}, "response_format"),
    "arguments that are no object": (
        {
            "tools": [
                {"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}
            ]
        },
        "tools.0.function.parameters",
    ),
    "a schema of arguments that is none": (
        {
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "f",
                        "parameters": {"type": "object", "properties": {"a": {"type": "x"}}},
                    },
                }
            ]
        },
        "tools",
    ),
    "a bias of no token": ({"logit_bias": {"9999": 1}}, "logit_bias"),
    "a stop token that is none": ({"stop_token_ids": [9999]}, "stop_token_ids"),
    "nine answers": ({"n": 9}, "n"),
    "too many alternatives": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_cannot_be_is_refused_by_name(case: str, key: str, echo: Offer) -> None:
    fields, param = BAD[case]
    response = await post(key, asked("hi", **fields))
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith(param)


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "required"},
        {"tools": [NOW], "tool_choice": {"type": "function", "function": {"name": "add"}}},
        {"tools": [NOW, NOW]},
        {"top_logprobs": 1},
        {"structured_outputs": {}},
        {"structured_outputs": {"regex": "a", "choice": ["b"]}},
    ],
)
async def test_what_does_not_fit_together_is_refused(key: str, echo: Offer, fields: Any) -> None:
    response = await post(key, asked("hi", **fields))
    assert response.status_code == 400


async def test_a_result_without_its_call_is_refused(key: str, echo: Offer) -> None:
    body = asked("hi")
    body["messages"].append({"role": "tool", "tool_call_id": "call_1", "content": "3"})
    response = await post(key, body)
    assert response.json()["error"]["param"] == "messages.1.tool_call_id"


async def test_stop_token_ids_end_an_answer_unsaid(key: str, host: Host) -> None:
    with serving(host):
        found = await whole(key, asked("abc", stop_token_ids=[ord("b")]))
    assert found.choices[0].message.content == "a"
    assert found.choices[0].finish_reason == "stop"
    assert found.usage is not None
    assert found.usage.completion_tokens == 2


@given(
    words=st.lists(st.sampled_from(["a", " <tool", "\n", "é"]), max_size=4),
    arguments=st.lists(
        st.dictionaries(st.text('a"\\{}<', max_size=3), st.text('}]"\\é', max_size=3), max_size=2),
        max_size=3,
    ),
    cuts=st.lists(st.integers(0, 300), max_size=12),
)
def test_a_reader_understands_however_the_text_is_cut(
    words: list[str], arguments: list[dict[str, str]], cuts: list[int]
) -> None:
    dumped = [json.dumps(each) for each in arguments]
    calls = [f'<tool_call>\n{{"name": "f", "arguments": {each}}}\n</tool_call>' for each in dumped]
    text = "".join(words) + "\n".join(calls)
    reader, events = Reader(), list[Said | Called]()
    borders = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    for start, end in pairwise(borders):
        events += reader.feed(text[start:end])
    found = message(events + reader.flush(), "id")
    assert (found["content"] or "").rstrip("\n") == "".join(words).rstrip("\n")
    assert [call["function"]["arguments"] for call in found.get("tool_calls", [])] == dumped
