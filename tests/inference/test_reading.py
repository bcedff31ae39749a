"""Coming back to a request: its stream read again, resumed, shared, left; and sent again."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from django.test import AsyncClient
from redis.exceptions import ConnectionError as NoRedis

from billing.models import LedgerEntry
from inference import generation
from inference.api import infer, openai
from inference.catalog.offers import Offer
from inference.models import Request
from inference.stream import Piece
from inference.worker import Host
from tenants.models import Organization
from tests import factories
from tests.inference.parts import fields, in_schema, job, serving
from tests.inference.test_consumers import connect, hear, hear_until_done, say

pytestmark = pytest.mark.django_db(transaction=True)

Event = dict[str, Any]
CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def key(account: Any, acme: Organization) -> str:
    """Acme's program's key."""
    return factories.api_key(acme)[1]


@pytest.fixture
def bobs_key(account: Any, globex: Organization) -> str:
    """Globex's."""
    return factories.api_key(globex)[1]


async def ask(method: str, path: str, key: str, body: Any = None, **headers: str) -> Any:
    return await AsyncClient().generic(
        method,
        path,
        json.dumps(body) if body else "",
        content_type="application/json",
        headers={"Authorization": f"Bearer {key}", **headers},
    )


async def events(response: Any) -> list[Event]:
    """Each event's data, with its `id` and `event`."""
    raw = b"".join([part async for part in response.streaming_content]).decode()
    found = []
    for block in filter(None, raw.split("\n\n")):
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append({**json.loads(lines["data"]), **lines})
    return found


def text_of(some: list[Event]) -> str:
    return "".join(each["text"] for each in some if each.get("event") == "token")


async def background(key: str, prompt: str = "hello there", **headers: str) -> str:
    response = await ask(
        "POST", "/api/v1/infer", key, {"prompt": prompt, "background": True}, **headers
    )
    assert response.status_code == 202
    assert response["Location"].endswith(response.json()["request_id"])
    found: str = response.json()["request_id"]
    return found


async def test_a_background_request_is_answered_at_once_and_read_later(
    key: str, host: Host
) -> None:
    request = await background(key)
    before = (await ask("GET", f"/api/v1/requests/{request}", key)).json()
    assert (before["state"], before["text"]) == ("waiting", "")
    with serving(host):
        whole = await events(await ask("GET", f"/api/v1/requests/{request}/stream", key))
    assert text_of(whole) == "hello there"
    after = (await ask("GET", f"/api/v1/requests/{request}", key)).json()
    assert (after["state"], after["text"]) == ("done", "hello there")
    assert after["finish_reason"] == "stop"
    assert after["cost"]["amount_nanos"] > 0


async def test_whoever_comes_back_gets_exactly_the_rest(key: str, host: Host) -> None:
    request = await background(key)
    with serving(host):
        whole = await events(await ask("GET", f"/api/v1/requests/{request}/stream", key))
    tokens = [each for each in whole if each["event"] == "token"]
    for at, token in enumerate(tokens):
        rest = await events(
            await ask("GET", f"/api/v1/requests/{request}/stream?after={token['id']}", key)
        )
        assert text_of(rest) == "".join(each["text"] for each in tokens[at + 1 :])
        assert rest[-1]["event"] == "done"
    by_header = await ask(
        "GET", f"/api/v1/requests/{request}/stream", key, **{"Last-Event-ID": tokens[-1]["id"]}
    )
    assert text_of(await events(by_header)) == ""


async def test_many_readers_follow_one_request(key: str, host: Host) -> None:
    request = await background(key)
    path = f"/api/v1/requests/{request}/stream"
    readers = [asyncio.create_task(events(await ask("GET", path, key))) for _ in range(3)]
    with serving(host):
        found = await asyncio.gather(*readers)
    assert {text_of(each) for each in found} == {"hello there"}


@pytest.mark.parametrize("path", ["", "/stream", "/cancel"])
async def test_nobody_else_reads_or_stops_it(
    path: str, key: str, bobs_key: str, echo: Offer
) -> None:
    request = await background(key)
    method = "POST" if path == "/cancel" else "GET"
    response = await ask(method, f"/api/v1/requests/{request}{path}", bobs_key)
    assert (response.status_code, response.json()["code"]) == (404, "request_not_found")
    assert fields_of(request)["state"] == "waiting"


@pytest.mark.parametrize("place", ["x", "5--1", "1_0-0", "5", "-1-0", "\u0661-0", "1" * 30 + "-0"])
async def test_a_place_that_is_none_is_refused(place: str, key: str, echo: Offer) -> None:
    path = f"/api/v1/requests/{await background(key)}/stream"
    response = await ask("GET", f"{path}?after={quote(place)}", key)
    assert (response.status_code, response.json()["param"]) == (400, "after")
    if place.isascii():
        response = await ask("GET", path, key, **{"Last-Event-ID": place})
        assert (response.status_code, response.json()["param"]) == (400, "Last-Event-ID")


async def test_a_browser_that_has_read_all_is_told_to_come_back_no_more(
    key: str, host: Host
) -> None:
    path = f"/api/v1/requests/{await background(key)}/stream"
    with serving(host):
        *_, done = await events(await ask("GET", path, key))
    again = await ask("GET", path, key, **{"Last-Event-ID": done["id"]})
    assert (again.status_code, again.content) == (204, b"")


async def test_a_key_limited_to_other_models_reads_what_it_sent_and_nothing_else(
    key: str, acme: Organization, host: Host
) -> None:
    _, narrow = await in_schema("public", lambda: factories.api_key(acme, models=["other"]))
    _, same = await in_schema("public", lambda: factories.api_key(acme, models=["echo"]))
    request = await background(key)
    paths = (f"requests/{request}", f"requests/{request}/stream", f"jobs/{request}")
    for path in paths:
        refused = await ask("GET", f"/api/v1/{path}", narrow)
        assert (refused.status_code, refused.json()["code"]) == (404, "request_not_found")
    refused = await ask("POST", f"/api/v1/requests/{request}/cancel", narrow)
    assert refused.status_code == 404
    assert fields_of(request)["readers"] == "0"
    with serving(host):
        assert text_of(await events(await ask("GET", f"/api/v1/{paths[1]}", same))) == "hello there"
    assert (await ask("GET", f"/api/v1/{paths[2]}", same)).status_code == 200


async def test_a_request_is_stopped_by_its_id(key: str, host: Host) -> None:
    request = await background(key)
    for expected in (True, False):
        response = await ask("POST", f"/api/v1/requests/{request}/cancel", key)
        assert response.json() == {"request_id": request, "cancelled": expected}


async def leave(key: str, **headers: str) -> str:
    """Begin a resumable stream and hang up."""
    response = await ask("POST", "/api/v1/infer/stream", key, {"prompt": "hello there"}, **headers)
    start = asyncio.get_running_loop().create_future()

    async def read() -> None:
        async for part in response.streaming_content:
            start.set_result(part)

    reader = asyncio.create_task(read())
    found: str = json.loads((await start).split(b"data: ")[1])["request_id"]
    reader.cancel()
    with suppress(asyncio.CancelledError):
        await reader
    return found


async def settled() -> None:
    """Until what goes on behind the callers' backs is over."""
    await asyncio.gather(*generation._behind)


async def test_a_resumable_stream_waits_for_its_reader_and_then_is_cancelled(
    key: str, echo: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "LINGER_SECONDS", 0)
    request = await leave(key)
    await settled()
    assert fields_of(request)["reason"] == "cancelled"


async def test_who_comes_back_in_time_keeps_it_alive(
    key: str, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "LINGER_SECONDS", 0.3)
    request = await leave(key)
    back = asyncio.create_task(events(await ask("GET", f"/api/v1/requests/{request}/stream", key)))
    await settled()
    assert fields_of(request)["state"] == "waiting"
    with serving(host):
        assert text_of(await back) == "hello there"


async def test_who_says_so_is_never_cancelled_for_leaving(
    key: str, echo: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "LINGER_SECONDS", 0)
    request = await leave(key, **{"X-On-Disconnect": "continue"})
    await settled()
    assert fields_of(request)["state"] == "waiting"
    refused = await ask(
        "POST", "/api/v1/infer", key, {"prompt": "x"}, **{"X-On-Disconnect": "explode"}
    )
    assert (refused.status_code, refused.json()["param"]) == (400, "X-On-Disconnect")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/infer", {"prompt": "hello"}),
        (
            "/v1/chat/completions",
            {"model": "echo", "messages": [{"role": "user", "content": "hi"}]},
        ),
    ],
)
async def test_a_request_sent_again_under_its_key_runs_once(
    path: str, body: Any, key: str, host: Host
) -> None:
    once = {"Idempotency-Key": "order-7"}
    with serving(host):
        some = await asyncio.gather(*(ask("POST", path, key, body, **once) for _ in range(5)))
        later = await ask("POST", path, key, body, **once)
    answers = [
        {name: value for name, value in each.json().items() if name != "latency_ms"}
        for each in (*some, later)
    ]
    assert all(each == answers[0] for each in answers)
    assert later["Idempotent-Replayed"] == "true"
    assert later["X-Request-ID"] == some[0]["X-Request-ID"]
    rows = await in_schema("public", LedgerEntry.objects.across_organizations().count)
    assert rows == 1
    assert await in_schema("org_acme", Request.objects.count) == 1


async def test_a_streamed_request_sent_again_replays_the_same_events(key: str, host: Host) -> None:
    once = {"Idempotency-Key": "k"}
    with serving(host):
        first, second = [
            await events(await ask("POST", "/api/v1/infer/stream", key, {"prompt": "hey"}, **once))
            for _ in range(2)
        ]
    assert first == second


async def test_a_key_with_another_body_is_refused(key: str, bobs_key: str, echo: Offer) -> None:
    request = await background(key, **{"Idempotency-Key": "k"})
    assert await background(key, **{"Idempotency-Key": "k"}) == request
    other = await ask("POST", "/api/v1/infer", key, {"prompt": "x"}, **{"Idempotency-Key": "k"})
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    for bad in ("", "é", "x" * 256):
        refused = await ask(
            "POST", "/api/v1/infer", key, {"prompt": "x"}, **{"Idempotency-Key": bad}
        )
        assert refused.status_code == 400


async def test_a_refused_request_may_be_sent_again_under_its_key(
    key: str, acme: Organization, host: Host
) -> None:
    await in_schema("public", lambda: limit(acme, 1))
    once = {"Idempotency-Key": "k"}
    with serving(host):
        assert (await ask("POST", "/api/v1/infer", key, {"prompt": "a"})).status_code == 200
        refused = await ask("POST", "/api/v1/infer", key, {"prompt": "b"}, **once)
        assert refused.status_code == 429
        await in_schema("public", lambda: limit(acme, 0))
        async with asyncio.timeout(2):
            again = refused
            while again.status_code == 429:
                again = await ask("POST", "/api/v1/infer", key, {"prompt": "b"}, **once)
    assert again.json()["text"] == "b"


async def test_a_socket_resumes_what_another_one_began(key: str, host: Host) -> None:
    first = await connect(key)
    await hear(first)
    await say(first, type="infer", id="a", prompt="hello there")
    request = (await hear(first))["request_id"]
    await first.disconnect()
    second = await connect(key)
    await hear(second)
    await say(second, type="resume", id="b", request_id=request)
    with serving(host):
        heard = await hear_until_done(second, 1)
    assert "".join(each["text"] for each in heard if each["type"] == "token") == "hello there"
    begun = next(each for each in heard if each["type"] == "token")
    await say(second, type="resume", id="c", request_id=request, after=begun["entry"])
    rest = await hear_until_done(second, 1)
    after = "".join(each["text"] for each in rest if each["type"] == "token")
    assert begun["text"] + after == "hello there"
    for bad in ({"request_id": "x"}, {"request_id": request, "after": "?"}):
        await say(second, type="resume", id="d", **bad)
        assert (await hear(second))["type"] == "error"
    await second.disconnect()


def limit(organization: Organization, requests: int) -> None:
    organization.requests_per_minute = requests
    organization.save()


def fields_of(request: str) -> dict[str, str]:
    return fields(UUID(request))


class Cut:
    """A run whose state Redis goes away in the middle."""

    job = job()

    async def pieces(self) -> AsyncIterator[Piece]:
        yield Piece(entry="1-1", position=0, tokens=(104,), text="h")
        raise NoRedis("No connection available.")


async def test_a_stream_that_loses_redis_says_that_it_is_unavailable_and_not_broken() -> None:
    run: Any = Cut()
    ours = b"".join([each async for each in infer.events(run, AsyncExitStack())])
    assert b"event: error" in ours
    assert b'"code":"unavailable"' in ours

    async def chunks() -> AsyncIterator[bytes]:
        async for piece in run.pieces():
            yield piece.text.encode()

    theirs = b"".join([each async for each in openai.told(chunks(), AsyncExitStack())])
    assert theirs.startswith(b"h")
    assert b'"code":"unavailable"' in theirs
