"""What becomes of a request whose reader leaves, and of one that is sent twice at once."""

import asyncio
import re
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast
from uuid import UUID

import pytest

from billing.models import LedgerEntry
from inference import admission, generation, jobs, line, stream
from inference.admission import admit
from inference.catalog.offers import Offer
from inference.engine import Delta, FinishReason, Outcome
from inference.finish import finish
from inference.jobs import Claim, Leaving
from inference.line import AlreadyIn, QueueFull
from inference.worker import Host
from kit.ids import request_id
from kit.redis import state
from tenants import datakeys
from tenants.auth import Caller, Limits
from tenants.models import Organization
from tests import factories
from tests.inference.parts import ECHO, append, fields, in_schema, serving
from tests.inference.test_api import CHAT, post
from tests.inference.test_consumers import connect, hear, say
from tests.inference.test_generation import wish
from tests.inference.test_reading import ask, background, events, settled, text_of
from tests.inference.test_worker import until

pytestmark = pytest.mark.django_db(transaction=True)

STREAM = "/api/v1/infer/stream"


@pytest.fixture
def key(account: Any, acme: Organization) -> str:
    """Acme's program's key."""
    return factories.api_key(acme)[1]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has time to come back."""
    monkeypatch.setattr(generation, "LINGER_SECONDS", 0)


async def hang_up(response: Any, *, after: bytes = b"") -> None:
    """Read until something came that has `after` in it, and leave."""
    heard = asyncio.get_running_loop().create_future()

    async def read() -> None:
        async for part in response.streaming_content:
            if after in part and not heard.done():
                heard.set_result(part)

    reader = asyncio.create_task(read())
    async with asyncio.timeout(30):
        await heard
    reader.cancel()
    with suppress(asyncio.CancelledError):
        await reader


def taken() -> Claim:
    found = jobs.claim(model=ECHO, worker="w")
    assert found is not None
    return found


def next_in_line() -> UUID:
    """The first that waits, once there is one."""
    until(lambda: bool(state().exists(f"queue:{ECHO}")))
    [found] = cast("list[bytes]", state().zrange(f"queue:{ECHO}", 0, 0))
    return UUID(found.decode())


def tell(claim: Claim, position: int, text: str, *, reason: FinishReason | None = None) -> str:
    """A step of the worker's; what it is told."""
    outcome = None
    if reason is not None:
        outcome = Outcome(
            reason=reason,
            prompt_tokens=claim.job.prompt_tokens,
            cached_tokens=0,
            completion_tokens=position + len(text),
        )
    request = claim.job.id
    delta = Delta(
        str(request), position=position, tokens=tuple(text.encode()), text=text, outcome=outcome
    )
    return append([(request, claim.attempt, delta)], claim.job.organization)[0]


async def test_whoever_comes_back_to_a_stream_that_became_one_entry_gets_exactly_the_rest(
    key: str, echo: Offer, redis: Any
) -> None:
    request = await background(key)
    path = f"/api/v1/requests/{request}"
    claim = taken()
    job, text = claim.job, "".join(chr(97 + at % 26) for at in range(stream.LONG))
    ring = datakeys.ring(job.organization)
    cipher = ring.cipher(stream.place(job.organization, job.id))
    stop = Outcome(FinishReason.stop, job.prompt_tokens, 0, len(text))
    deltas = [Delta(request, at, (ord(letter),), letter) for at, letter in enumerate(text)]
    for delta in [*deltas, Delta(request, len(text), (), "", stop)]:
        assert stream.append([(job.id, claim.attempt, delta, cipher)]) == ["ok"]
    await in_schema("public", partial(finish, [job.id], now=datetime.now(UTC)))
    whole = await events(await ask("GET", f"{path}/stream", key))
    tokens = [each for each in whole if each["event"] == "token"]
    assert text_of(tokens) == text
    assert stream.compact(job.id, cipher)
    assert redis.xlen(f"stream:{request}") == 2, "all of it, and its end"
    for at in (-1, 0, len(text) // 2, len(text) - 2, len(text) - 1):
        after = f"?after={tokens[at]['id']}" if at >= 0 else ""
        rest = await events(await ask("GET", f"{path}/stream{after}", key))
        assert [each for each in rest if each["event"] == "token"] == tokens[at + 1 :]
        assert rest[-1] == whole[-1]
    assert (await ask("GET", path, key)).json()["text"] == text


async def test_a_reader_who_leaves_stops_nothing_that_runs_in_background(
    key: str, echo: Offer, at_once: None
) -> None:
    request = await background(key)
    await hang_up(await ask("GET", f"/api/v1/requests/{request}/stream", key))
    await settled()
    said = {"X-On-Disconnect": "cancel"}
    await hang_up(await ask("GET", f"/api/v1/requests/{request}/stream", key, **said))
    socket = await connect(key)
    await hear(socket)
    await say(socket, type="resume", id="a", request_id=request)
    assert (await hear(socket))["type"] == "started"
    await socket.disconnect()
    await settled()
    assert fields(UUID(request))["state"] == "waiting"
    stopped = await ask("POST", f"/api/v1/requests/{request}/cancel", key)
    assert stopped.json()["cancelled"] is True


@pytest.mark.parametrize("by_reader", [False, True])
async def test_what_was_to_go_on_goes_on_whoever_reads_it_later(
    by_reader: bool, key: str, echo: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = {"X-On-Disconnect": "continue"}
    monkeypatch.setattr(generation, "LINGER_SECONDS", 0.3 if by_reader else 0)
    said = {} if by_reader else goes_on
    response = await ask("POST", STREAM, key, {"prompt": "hello"}, **said)
    request, path = response["X-Request-ID"], f"/api/v1/requests/{response['X-Request-ID']}/stream"
    await hang_up(response)
    await hang_up(await ask("GET", path, key, **(goes_on if by_reader else {})))
    await hang_up(await ask("GET", path, key))
    await settled()
    assert fields(UUID(request))["state"] == "waiting"


async def test_each_reader_who_leaves_has_the_whole_time_to_come_back(
    key: str, echo: Offer, redis: Any
) -> None:
    request = UUID(await background(key))
    organization = int(fields(request)["org"])
    redis.hdel(f"job:{request}", "leaving")
    redis.hset(f"job:{request}", "readers", 2)
    leave = partial(jobs.leave, request=request, organization=organization, grace=15)
    look = partial(jobs.cancel_unread, request=request, organization=organization, grace=15)
    for _ in range(2):
        await leave(leaving=Leaving.LINGER)
    redis.hincrby(f"job:{request}", "left_at", -1_000)
    left = await look()
    assert left is not None
    assert 13 < left <= 14
    assert fields(request)["state"] == "waiting"
    redis.hincrby(f"job:{request}", "left_at", -14_000)
    assert await look() is None
    assert fields(request)["reason"] == "cancelled"


async def test_a_client_of_openais_who_leaves_ends_its_answer_within_a_step_and_pays_what_came(
    key: str, echo: Offer
) -> None:
    response = await post("/v1/chat/completions", {**CHAT, "stream": True}, key)
    claim = await asyncio.to_thread(taken)
    assert await asyncio.to_thread(tell, claim, 0, "abc") == "ok"
    await hang_up(response, after=b"abc")
    await settled()
    assert await asyncio.to_thread(tell, claim, 3, "d") == "cancelled"
    await asyncio.to_thread(tell, claim, 4, "", reason=FinishReason.cancelled)
    await in_schema("public", lambda: finish([claim.job.id], now=datetime.now(UTC)))
    row = await in_schema("public", LedgerEntry.objects.across_organizations().get)
    assert (row.state, row.units["output_tokens"]) == ("cancelled", 3)
    assert row.amount == 6 * 1000 + 3 * 2000


async def test_who_may_send_it_again_under_its_key_is_waited_for_and_gets_all_of_it(
    key: str, host: Host
) -> None:
    once, body = {"Idempotency-Key": "order-8"}, {**CHAT, "stream": True}
    response = await post("/v1/chat/completions", body, key, **once)
    await hang_up(response, after=b"assistant")
    again = asyncio.create_task(collect(await post("/v1/chat/completions", body, key, **once)))
    with serving(host):
        whole = await again
    assert b"".join(re.findall(rb'"content":"(.*?)"', whole)) == b"hello"
    assert b'"finish_reason":"stop"' in whole


CUT: dict[str, Any] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": ECHO, "prompt": "hello"},
}


@pytest.mark.parametrize("path", CUT)
async def test_an_answer_that_was_cut_is_never_told_again_as_if_it_were_whole(
    path: str, key: str, host: Host
) -> None:
    once = {"Idempotency-Key": "order-9", "X-On-Disconnect": "cancel"}
    asked = asyncio.create_task(post(path, CUT[path], key, **once))
    request = await asyncio.to_thread(next_in_line)
    asked.cancel()
    with suppress(asyncio.CancelledError):
        await asked
    await settled()
    assert fields(request)["reason"] == "cancelled"
    with serving(host):
        again = await post(path, CUT[path], key, **once)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "request_cancelled")


@pytest.mark.parametrize("path", CUT)
async def test_a_stream_that_somebody_else_stopped_says_so_and_not_that_it_is_whole(
    path: str, key: str, caller: Caller, host: Host
) -> None:
    stream = await post(path, CUT[path] | {"stream": True}, key)
    request = await asyncio.to_thread(next_in_line)
    assert await jobs.cancel(request=request, organization=caller.organization)
    with serving(host):
        said = await collect(stream)
    assert b"request_cancelled" in said
    assert b"stop" not in said


async def collect(response: Any) -> bytes:
    """All of a stream."""
    return b"".join([part async for part in response.streaming_content])


async def test_what_failed_is_run_anew_when_it_is_sent_again_under_its_key(
    key: str, host: Host
) -> None:
    once, body = {"Idempotency-Key": "order-10"}, {"prompt": "hello"}
    asked = asyncio.create_task(ask("POST", "/api/v1/infer", key, body, **once))
    await asyncio.to_thread(next_in_line)
    claim = await asyncio.to_thread(taken)
    await asyncio.to_thread(tell, claim, 0, "", reason=FinishReason.failed)
    await in_schema("public", lambda: finish([claim.job.id], now=datetime.now(UTC)))
    assert (await asked).status_code == 500
    with serving(host):
        some = await asyncio.gather(
            *(ask("POST", "/api/v1/infer", key, body, **once) for _ in range(3))
        )
    assert {each.json()["text"] for each in some} == {"hello"}
    [again] = {each["X-Request-ID"] for each in some}
    assert again != str(claim.job.id)
    assert await in_schema("public", LedgerEntry.objects.across_organizations().count) == 2


async def test_of_two_who_try_at_once_the_second_reads_the_first_ones(
    key: str, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = asyncio.Barrier(2)

    async def exists(request: UUID) -> bool:
        """Both look before either is in."""
        found = bool(await asyncio.to_thread(state().exists, f"job:{request}"))
        if both.n_waiting < 2 and not found:
            await both.wait()
        return found

    monkeypatch.setattr(jobs, "exists", exists)
    once = {"Idempotency-Key": "order-11", "X-On-Disconnect": "cancel"}
    one, other = await asyncio.gather(
        *(ask("POST", STREAM, key, {"prompt": "hello"}, **once) for _ in range(2))
    )
    assert one["X-Request-ID"] == other["X-Request-ID"]
    request = UUID(one["X-Request-ID"])
    assert fields(request)["readers"] == "2"
    await hang_up(one)
    await settled()
    assert (fields(request)["state"], fields(request)["readers"]) == ("waiting", "1")
    with serving(host):
        assert text_of(await events(other)) == "hello"


async def test_a_twin_that_is_refused_takes_nothing_from_the_one_that_got_in(
    caller: Caller, echo: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, limits = datetime.now(UTC), Limits(requests_per_minute=10, concurrent_requests=10)
    caller = replace(caller, limits=limits)
    request = request_id(now)
    withdraw = admission.withdraw

    async def enter() -> None:
        await admit(caller=caller, wish=wish(echo), request=request, web="w", repeatable=True)

    async def late(job: Any, **more: Any) -> None:
        """Between the refusal and its undoing the other gets in."""
        monkeypatch.setattr(line, "MOST_WAITING", 10)
        monkeypatch.setattr(admission, "withdraw", withdraw)
        await enter()
        await withdraw(job, **more)

    monkeypatch.setattr(line, "MOST_WAITING", 0)
    monkeypatch.setattr(admission, "withdraw", late)
    with pytest.raises(QueueFull):
        await enter()
    of = f"limits:organization:{caller.organization}"
    held = f"credit:{caller.organization}:held"
    assert state().hexists(held, str(request))
    assert (state().zcard(f"{of}:running"), state().zcard(f"{of}:log")) == (1, 1)
    state().hset(f"job:{request}", "state", "done")
    state().hdel(held, str(request))
    with pytest.raises(AlreadyIn):
        await enter()
    assert not state().hexists(held, str(request))
