"""Requests end to end inside one process: admitted, run by the echo model, booked, followed."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from billing.allowances import Grant
from billing.credit import OutOfCredit
from billing.models import Account, LedgerEntry
from inference import jobs, live, stream, undelivered
from inference.admission import Wish
from inference.catalog.offers import Offer
from inference.engine import Delta, Sampling
from inference.generation import Generation, generation, reading
from inference.idempotency import Repeatable
from inference.jobs import KEPT_LONG_SECONDS, KEPT_NOTHING_SECONDS, KEPT_SECONDS, Job, Verdict
from inference.live import Follower, Listener
from inference.models import Request
from inference.worker import Host
from kit.errors import Unavailable
from kit.ids import request_id
from kit.redis import state
from kit.threads import in_thread
from tenants import datakeys
from tenants.auth import Caller
from tenants.models import Retention
from tests.inference.parts import in_schema, serving, submit
from tests.inference.test_worker import ended, until

pytestmark = pytest.mark.django_db(transaction=True)


def wish(offer: Offer, text: str = "hello", **sampling: object) -> Wish:
    return Wish(
        offer=offer,
        prompt=tuple(offer.text.chat([{"role": "user", "content": text}])),
        sampling=Sampling(**{"max_tokens": 64, **sampling}),  # type: ignore[arg-type]
        endpoint="test",
        label="mine",
    )


async def answer(caller: Caller, wished: Wish) -> tuple[Generation, str]:
    now = datetime.now(UTC)
    async with generation(caller=caller, wish=wished, request=request_id(now)) as run:
        return run, (await run.whole()).texts[0]


async def test_an_answer_is_booked_once_in_history_and_ledger(
    caller: Caller, echo: Offer, host: Host
) -> None:
    with serving(host):
        run, text = await answer(caller, wish(echo))
    assert text == "hello"
    entry = await in_schema("public", lambda: LedgerEntry.objects.across_organizations().get())
    assert entry.units == {"input_tokens": 6, "output_tokens": run.ended.completion_tokens}
    assert entry.amount == run.ended.amount == 6 * 1000 + 2000 * run.ended.completion_tokens
    row = await in_schema("org_acme", lambda: Request.objects.get(pk=run.job.id))
    assert (row.amount, row.completion_tokens) == (entry.amount, run.ended.completion_tokens)


async def test_a_request_that_redis_forgot_is_told_so_and_the_next_one_is_served(
    caller: Caller, echo: Offer, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_QUIET_SECONDS", 0.05)
    now = datetime.now(UTC)
    lost = request_id(now)
    async with generation(caller=caller, wish=wish(echo), request=lost) as run:
        state().flushall()
        with pytest.raises(undelivered.Lost):
            await run.whole()
    with serving(host):
        _, text = await answer(caller, wish(echo))
    assert text == "hello"
    assert await in_schema("public", LedgerEntry.objects.across_organizations().count) == 1


async def test_what_an_answer_cost_that_redis_forgot_before_it_was_read_is_credited_once(
    caller: Caller, echo: Offer, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_QUIET_SECONDS", 0.05)
    now = datetime.now(UTC)
    asked = request_id(now)
    async with generation(caller=caller, wish=wish(echo), request=asked) as run:
        with serving(host):
            await asyncio.to_thread(until, lambda: ended(asked))
        inbox = run._follower._inbox
        while len(inbox):
            await inbox.get()
        state().flushall()
        with pytest.raises(undelivered.NotKeptAnyMore):
            await run.whole()
    with pytest.raises(undelivered.NotKeptAnyMore):
        async with reading(caller=caller, request=asked):
            pass
    row = await in_schema("public", LedgerEntry.objects.across_organizations().get)
    given = await in_schema("public", Grant.objects.across_organizations().get)
    assert (given.amount, given.organization_id) == (row.amount, caller.organization)


async def test_an_answer_that_was_read_to_its_last_token_is_not_credited(
    caller: Caller, echo: Offer, host: Host
) -> None:
    with serving(host):
        run, _ = await answer(caller, wish(echo))
    state().flushall()
    told = await in_thread(
        undelivered.made_good,
        organization=caller.organization,
        request=run.job.id,
        heard=run.ended.completion_tokens,
        now=datetime.now(UTC),
    )
    assert isinstance(told, undelivered.NotKeptAnyMore)
    assert not await in_schema("public", Grant.objects.across_organizations().exists)


@pytest.mark.parametrize(
    ("key", "retention", "kept"),
    [
        (None, Retention.ANSWERS, KEPT_SECONDS),
        (Repeatable("k", "f"), Retention.ANSWERS, KEPT_LONG_SECONDS),
        (Repeatable("k", "f"), Retention.NOTHING, KEPT_NOTHING_SECONDS),
    ],
)
async def test_an_answer_that_is_lost_is_credited_as_long_as_it_was_to_be_kept_and_no_longer(
    key: Repeatable | None,
    retention: Retention,
    kept: int,
    caller: Caller,
    echo: Offer,
    host: Host,
) -> None:
    asks, now = replace(caller, retention=retention), datetime.now(UTC)
    begun = generation(caller=asks, wish=wish(echo), request=request_id(now), repeatable=key)
    with serving(host):
        async with begun as run:
            await run.whole()
    state().flushall()

    async def told(after: int) -> undelivered.NotKeptAnyMore | None:
        return await in_thread(
            undelivered.lost_early,
            organization=caller.organization,
            request=run.job.id,
            now=datetime.now(UTC) + timedelta(seconds=after),
        )

    assert await told(kept - 30) is None, "it may have gone properly"
    assert not await in_schema("public", Grant.objects.across_organizations().exists)
    assert await told(kept - 90) is not None
    assert await in_schema("public", Grant.objects.across_organizations().count) == 1


async def test_a_reader_hears_nothing_twice_of_a_request_that_begins_again_after_a_flush(
    caller: Caller, echo: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_QUIET_SECONDS", 0.05)
    now = datetime.now(UTC)
    async with generation(caller=caller, wish=wish(echo), request=request_id(now)) as run:
        assert isinstance(run.job, Job)
        pieces = run.pieces()
        await asyncio.to_thread(write, run.job, "he")
        assert (await anext(pieces)).text == "he"
        state().flushall()
        await asyncio.to_thread(submit, run.job)
        await asyncio.to_thread(write, run.job, "hello")
        with pytest.raises(undelivered.Lost, match=f"goes on.*requests/{run.job.id}/stream"):
            await anext(pieces)
        back = Follower(
            run.job.id, await Listener.here(), organization=run.job.organization, after="2-2"
        )
        async with back:
            with pytest.raises(undelivered.Lost, match="goes on"):
                await anext(aiter(back))
        again = Follower(
            run.job.id, await Listener.here(), organization=run.job.organization, after=""
        )
        async with again:
            piece = await anext(aiter(again))
        assert isinstance(piece, stream.Piece)
        assert piece.text == "hello"


def write(job: Job, text: str) -> None:
    """A worker claims it and writes the beginning of its answer."""
    claim = jobs.claim(model=job.model, worker="w")
    assert claim is not None
    delta = Delta(str(job.id), position=0, tokens=tuple(text.encode()), text=text)
    cipher = datakeys.ring(job.organization).cipher(stream.place(job.organization, job.id))
    assert stream.append([(job.id, claim.attempt, delta, cipher)]) == [Verdict.OK]


async def test_a_reader_who_falls_behind_takes_bounded_memory_and_misses_nothing(
    caller: Caller, echo: Offer, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_MOST_UNREAD", 2)
    text = "0123456789" * 20
    asked = request_id(datetime.now(UTC))
    wished = wish(echo, text, max_tokens=201)
    async with generation(caller=caller, wish=wished, request=asked) as run:
        with serving(host):
            await asyncio.to_thread(until, lambda: ended(asked))
        assert len(run._follower._inbox) == 3
        assert (await run.whole()).texts == [text]


async def test_what_the_platform_could_not_read_on_is_not_left_by_its_caller(
    caller: Caller, echo: Offer, host: Host
) -> None:
    now = datetime.now(UTC)
    broken = request_id(now)
    with pytest.raises(Unavailable):
        async with generation(caller=caller, wish=wish(echo), request=broken):
            raise Unavailable("The data key is out of reach.")
    with serving(host):
        async with reading(caller=caller, request=broken) as run:
            found = await run.whole()
    assert (found.texts[0], found.ended.reason) == ("hello", "stop")


async def test_batched_answers_are_each_their_own(caller: Caller, echo: Offer, host: Host) -> None:
    texts = [f"{number}" * (number + 1) for number in range(12)]
    with serving(host, threads=6):
        found = await asyncio.gather(*(answer(caller, wish(echo, text)) for text in texts))
    assert [text for _, text in found] == texts


async def test_what_cannot_be_paid_is_refused_and_holds_nothing(
    caller: Caller, echo: Offer, account: Account
) -> None:
    with pytest.raises(OutOfCredit):
        await answer(caller, wish(echo, max_tokens=501, text="x" * 1_200_000))
    assert state().hlen(f"credit:{caller.organization}:held") == 0
    assert state().zcard(f"limits:organization:{caller.organization}:running") == 0
