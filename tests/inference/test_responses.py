"""/v1/responses as OpenAI's client uses it: whole, streamed, in background, and gone on from."""

import asyncio
import json
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import pytest
from django.test import AsyncClient
from openai import AsyncOpenAI, NotFoundError
from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent
from pydantic import BaseModel
from redis import Redis

from billing.models import LedgerEntry
from inference import responses
from inference.models import Request, StoredResponse
from inference.worker import Host
from tenants.models import Organization, Retention
from tests import factories
from tests.inference.parts import ECHO, NOW, in_schema, serving
from tests.inference.shapes import exactly
from tests.inference.test_api import events, post

pytestmark = pytest.mark.django_db(transaction=True)

PATH = "/v1/responses"
CANARY = "canary-5e7a"
ADD: Any = {
    "type": "function",
    "name": "add",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    },
}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


@pytest.fixture
def key(account: Any, acme: Organization) -> str:
    """Acme's program's key."""
    return factories.api_key(acme)[1]


async def ask(method: str, path: str, key: str) -> Any:
    send = getattr(AsyncClient(), method)
    return await send(path, headers={"Authorization": f"Bearer {key}"})


def asked(**fields: Any) -> dict[str, Any]:
    return {"model": ECHO, "input": "hello", "temperature": 0, "seed": 1, **fields}


async def told(answer: Any) -> list[dict[str, Any]]:
    """The events of a stream, each held against the package's model, in their order."""
    found = []
    for each in await events(answer):
        name, data = (line.partition(": ")[2] for line in each.split("\n"))
        found.append(json.loads(data))
        assert name == found[-1]["type"]
        exactly(ResponseStreamEvent, found[-1])  # type: ignore[arg-type]
    return found


async def test_a_response_is_the_packages_model_billed_once_and_read_again_the_same(
    key: str, host: Host, acme: Organization, redis: Redis, openai: AsyncOpenAI
) -> None:
    with serving(host):
        answer = await post(PATH, asked(instructions="Say it.", user="u", metadata={"a": "b"}), key)
    made = exactly(Response, answer.json())
    assert (made.output_text, made.status, made.instructions) == ("hello", "completed", "Say it.")
    assert answer["X-Ignored-Parameters"] == "user"
    [row] = await in_schema("public", lambda: [*LedgerEntry.objects.for_org(acme)])
    assert made.usage is not None
    assert row.amount == made.usage.cost["amount_nanos"] > 0  # type: ignore[attr-defined]
    assert await in_schema("org_acme", lambda: Request.objects.get().endpoint) == "responses"
    assert (await ask("get", f"{PATH}/{made.id}", key)).json() == answer.json()
    redis.delete(f"job:{row.pk}", f"stream:{row.pk}")
    assert (await ask("get", f"{PATH}/{made.id}", key)).json() == answer.json()
    items = (await ask("get", f"{PATH}/{made.id}/input_items", key)).json()
    exactly(ResponseItemList, items)
    assert items["data"][0]["content"] == [{"type": "input_text", "text": "hello"}]
    assert (await openai.responses.retrieve(made.id)).output_text == "hello"


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"max_output_tokens": 2},
        {"include": ["message.output_text.logprobs"], "top_logprobs": 1},
        {"input": f"Well. {CALL}", "tools": [ADD], "max_output_tokens": 200},
    ],
)
async def test_its_events_make_what_is_said_at_once_and_are_told_again_from_anywhere(
    more: Any, key: str, host: Host, redis: Redis
) -> None:
    with serving(host):
        whole = (await post(PATH, asked(**more), key)).json()
        said = await told(await post(PATH, asked(**more, stream=True), key))
    exactly(Response, whole)
    assert [each["sequence_number"] for each in said] == [*range(len(said))]
    last = said[-1]["response"]
    assert (said[0]["type"], said[-1]["type"]) == (
        "response.created",
        "response.incomplete"
        if "max_output_tokens" in more and not more.get("tools")
        else "response.completed",
    )
    assert _timeless(last) == _timeless(whole)
    items = [each["item"] for each in said if each["type"] == "response.output_item.done"]
    assert items == last["output"]
    deltas = [each["delta"] for each in said if each["type"] == "response.output_text.delta"]
    assert "".join(deltas) == exactly(Response, last).output_text
    path = f"{PATH}/{last['id']}?stream=true"
    for keys in ([], [*redis.keys("job:*"), *redis.keys("stream:*")]):
        if keys:
            redis.delete(*keys)
        again = await told(await ask("get", path, key))
        assert again == said
        tail = await told(await ask("get", f"{path}&starting_after=2", key))
        assert tail == said[3:]


def _timeless(response: dict[str, Any]) -> Any:
    """Without what differs from one request to the next."""
    text = json.dumps({**response, "created_at": 0, "completed_at": 0, "usage": 0})
    return text.replace(response["id"].partition("_")[2], "")


async def test_the_clients_helpers_stream_parse_and_call_functions(
    openai: AsyncOpenAI, host: Host
) -> None:
    class Sum(BaseModel):
        total: int

    with serving(host):
        async with openai.responses.stream(
            model=ECHO, input='{"total": 3}', text_format=Sum, temperature=0
        ) as stream:
            async for _ in stream:
                pass
            final = await stream.get_final_response()
        parsed = await openai.responses.parse(
            model=ECHO, input='{"total": 4}', text_format=Sum, temperature=0
        )
        calls = await openai.responses.create(
            model=ECHO,
            input=CALL,
            tools=[ADD],
            tool_choice=cast("Any", {"type": "function", "name": "add"}),
            temperature=0,
        )
        [call] = calls.output
        assert call.type == "function_call"
        assert (call.name, json.loads(call.arguments)) == ("add", {"a": 1})
        given: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "so: 1"}
        back = await openai.responses.create(
            model=ECHO,
            input=[given],
            previous_response_id=calls.id,
            temperature=0,
        )
        by_hand = await openai.responses.create(
            model=ECHO,
            input=[{"role": "user", "content": CALL}, cast("Any", call.model_dump()), given],
            temperature=0,
        )
    assert final.output_parsed == Sum(total=3)
    assert parsed.output_parsed == Sum(total=4)
    assert back.output_text == by_hand.output_text
    assert back.usage is not None
    assert by_hand.usage is not None
    assert back.usage.input_tokens == by_hand.usage.input_tokens


async def test_a_response_goes_on_from_another_until_that_is_deleted(
    openai: AsyncOpenAI, key: str, host: Host, acme: Organization
) -> None:
    with serving(host):
        first = await openai.responses.create(model=ECHO, input="hello", temperature=0)
        second = await openai.responses.create(
            model=ECHO, input="you", previous_response_id=first.id, temperature=0
        )
    assert second.previous_response_id == first.id
    request = UUID(second.id.removeprefix("resp_"))
    found = await responses.find(organization=acme.pk, request=request)
    assert found is not None
    asked_before, answered = found.frame["context"]
    assert (asked_before["role"], asked_before["content"]) == ("user", "hello")
    assert (answered["role"], answered["content"][0]["text"]) == ("assistant", "hello")
    deleted = await ask("delete", f"{PATH}/{first.id}", key)
    assert deleted.json() == {"id": first.id, "object": "response", "deleted": True}
    refused = await post(PATH, asked(previous_response_id=first.id), key)
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (404, "previous_response_id")
    assert (await openai.responses.retrieve(second.id)).output_text == second.output_text


async def test_one_in_background_is_queued_read_and_ended_by_anybody(
    openai: AsyncOpenAI, key: str, host: Host, acme: Organization
) -> None:
    left = await openai.responses.create(model=ECHO, input="hello", background=True)
    made = await openai.responses.create(model=ECHO, input="hi", background=True, temperature=0)
    assert (left.status, made.status, made.background) == ("queued", "queued", True)
    early = await post(PATH, asked(previous_response_id=made.id), key)
    assert (early.status_code, early.json()["error"]["code"]) == (409, "response_not_ended")
    with serving(host):
        stopped = await openai.responses.cancel(left.id)
        stream = await openai.responses.retrieve(made.id, stream=True)
        types = [each.type async for each in stream]
    assert stopped.status in {"cancelled", "completed"}
    assert types[-1] == "response.completed"
    assert (await openai.responses.retrieve(made.id)).output_text == "hi"
    assert (await openai.responses.cancel(made.id)).status == "completed"


async def test_what_is_not_stored_cannot_be_read(
    openai: AsyncOpenAI, key: str, host: Host, acme: Organization
) -> None:
    with serving(host):
        made = await openai.responses.create(model=ECHO, input="hello", store=False)
        with pytest.raises(NotFoundError):
            await openai.responses.retrieve(made.id)
        plain = await openai.responses.create(model=ECHO, input="hello")
        error = (await ask("get", f"{PATH}/{plain.id}x", key)).json()["error"]
        assert error["code"] == "response_not_found"
        foreground = await post(f"{PATH}/{plain.id}/cancel", {}, key)
        assert foreground.status_code == 400
    assert await in_schema("org_acme", StoredResponse.objects.count) == 1


async def test_an_organization_that_keeps_nothing_keeps_no_response(
    key: str, host: Host, acme: Organization
) -> None:
    acme.retention = Retention.NOTHING
    await in_schema("public", acme.save)
    _, own = await in_schema("public", lambda: factories.api_key(acme))
    refused = await post(PATH, asked(background=True), own)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "background")
    with serving(host):
        made = (await post(PATH, asked(), own)).json()
    assert (await ask("get", f"{PATH}/{made['id']}", own)).status_code == 404
    assert await in_schema("org_acme", StoredResponse.objects.count) == 0


async def test_what_is_kept_is_sealed_the_organizations_own_and_goes_in_time(
    key: str, host: Host, acme: Organization, globex: Organization, redis: Redis
) -> None:
    with serving(host):
        made = (await post(PATH, asked(input=CANARY), key)).json()
    row = await in_schema("org_acme", StoredResponse.objects.get)
    assert CANARY.encode() not in bytes(row.frame) + bytes(row.answered)
    assert CANARY.encode() not in redis.hget(f"job:{row.pk}", "frame")  # type: ignore[operator]
    _, others = await in_schema("public", lambda: factories.api_key(globex))
    for method in ("get", "delete"):
        assert (await ask(method, f"{PATH}/{made['id']}", others)).status_code == 404
    later = row.finished_at + timedelta(days=responses.KEPT_DAYS, seconds=1)
    assert await asyncio.to_thread(responses.purge, acme, now=row.finished_at) == 0
    assert await asyncio.to_thread(responses.purge, acme, now=later) == 1


async def test_one_that_was_deleted_before_it_was_booked_is_not_written_then(
    key: str, host: Host, acme: Organization
) -> None:
    made = (await post(PATH, asked(background=True), key)).json()
    row = responses.SealedResponse(
        UUID(made["id"].removeprefix("resp_")), b"sealed", b"sealed", NOW
    )
    assert (await ask("delete", f"{PATH}/{made['id']}", key)).status_code == 200
    await in_schema("public", lambda: responses.write([("org_acme", row)]))
    assert not bytes((await in_schema("org_acme", StoredResponse.objects.get)).frame)
    assert (await ask("get", f"{PATH}/{made['id']}", key)).status_code == 404


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an image": (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "input.0.content.0",
    ),
    "an item that is none": ({"input": [{"type": "reasoning", "summary": []}]}, "input.0"),
    "a result without a call": (
        {"input": [{"type": "function_call_output", "call_id": "c", "output": "1"}]},
        "input",
    ),
    "a tool of OpenAI's": ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
    "a schema that cannot be held": (
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}},
        "text.format.schema",
    ),
    "no function of that name": (
        {"tools": [ADD], "tool_choice": {"type": "function", "name": "sub"}},
        "tool_choice",
    ),
    "parameters that are no object": (
        {"tools": [{"type": "function", "name": "f", "parameters": {"type": "string"}}]},
        "tools.0.parameters",
    ),
    "nothing said": ({"input": " "}, "input"),
    "too much": ({"input": "x" * 600}, "input"),
    "reasoning": ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
    "a conversation": ({"conversation": "conv_1"}, "conversation"),
    "cutting": ({"truncation": "auto"}, "truncation"),
    "log-probabilities not included": ({"top_logprobs": 2}, "top_logprobs"),
    "background that is not stored": ({"background": True, "store": False}, "background"),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_cannot_be_answered_is_refused_by_the_name_that_was_sent(
    case: str, key: str, host: Host
) -> None:
    more, param = BAD[case]
    answer = await post(PATH, asked(**more), key)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"] or error["message"].partition(":")[0]) == (
        400,
        param,
    )
    assert "messages." not in error["message"]
