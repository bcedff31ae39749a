"""A worker's inside: crashes, drains, lost leases, a database that is away."""

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from threading import Thread
from typing import Any
from uuid import UUID

import pytest
from django.db import DatabaseError
from redis import Redis

from billing import pricing
from billing.models import Account, LedgerEntry, PriceVersion
from inference import jobs, sealed, stream
from inference.catalog.offers import Offer
from inference.engine import Sampling
from inference.finish import finish
from inference.jobs import Job
from inference.letters.models import DeadLetter
from inference.models import Request
from inference.worker import Host, finisher, watch
from kit.ids import request_id
from tenants.auth import Caller
from tenants.models import Organization
from tests.inference.parts import NOW, fields, job, serving, submit

pytestmark = pytest.mark.django_db(transaction=True)


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


def ended(request: UUID) -> bool:
    return fields(request).get("state") == "done"


def booked() -> Iterator[LedgerEntry]:
    return LedgerEntry.objects.across_organizations().iterator()


def test_a_claimed_request_ends_and_frees_its_slot(one: Job, host: Host) -> None:
    host.serve("echo")
    until(lambda: ended(one.id))
    [entry] = booked()
    assert entry.request == one.id
    assert entry.units["output_tokens"] == 41


def test_a_request_whose_finisher_died_is_booked_by_the_reaper(
    one: Job, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise DatabaseError("gone")

    monkeypatch.setattr(finisher, "finish", dies)
    host.serve("echo")
    until(lambda: fields(one.id)["state"] == "sealed")
    assert list(booked()) == []
    monkeypatch.setattr(finisher, "finish", finish)
    monkeypatch.setattr(watch, "_OVERDUE_MS", -10_000)
    watch.book_overdue()
    assert ended(one.id)
    assert len(list(booked())) == 1


def test_booking_twice_changes_nothing(one: Job, host: Host) -> None:
    host.serve("echo")
    until(lambda: ended(one.id))
    finish([one.id], now=NOW)
    assert len(list(booked())) == 1


def test_a_worker_that_lost_its_lease_writes_nothing_and_lets_go(
    one: Job, host: Host, redis: Redis
) -> None:
    redis.hset(f"job:{one.id}", "attempt", 5)
    host.serve("echo")
    assert redis.hget(f"job:{one.id}", "attempt") == b"6"
    until(lambda: ended(one.id))


def test_a_draining_worker_hands_its_requests_over_with_their_tokens(
    one: Job, echo: Offer, announced: list[str]
) -> None:
    first, second = Host([echo], slots=1), Host([echo], slots=1)
    first.start()
    second.start()
    claimed = jobs.claim(model="echo", worker=first.name)
    assert claimed is not None
    jobs.give_back([(one.id, claimed.attempt)])
    serving = Thread(target=first.serve, args=["echo"])
    first.drain(0)
    serving.start()
    serving.join(5)
    assert fields(one.id)["state"] == "waiting"
    second.serve("echo")
    until(lambda: ended(one.id))
    second.drain(1)
    [entry] = booked()
    assert entry.units["output_tokens"] == 41


def test_a_broken_engine_ends_its_worker_and_loses_no_request(
    one: Job, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr("os.kill", lambda pid, number: killed.append(number))
    station = host._stations["echo"]

    def breaks() -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(station.engine, "step", breaks)
    host.serve("echo")
    until(lambda: bool(killed))
    assert killed == [signal.SIGTERM]
    assert not station.take_slot()
    assert fields(one.id)["state"] == "running"


def test_a_request_that_the_engine_refuses_fails_and_costs_nothing(
    one: Job, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(work: object) -> None:
        raise ValueError("not this one")

    monkeypatch.setattr(host._stations["echo"].engine, "submit", refuses)
    host.serve("echo")
    until(lambda: ended(one.id))
    [entry] = booked()
    assert (entry.state, entry.amount) == ("failed", 0)


@pytest.fixture
def unbookable(caller: Caller) -> Job:
    """It costs more than a ledger's row can hold."""
    price = PriceVersion.objects.create(
        model="dear",
        currency="EUR",
        rates={"input_tokens": 10**30, "output_tokens": 10**30},
        effective_from=NOW,
    )
    pricing.forget()
    made = job(organization=caller.organization, schema=caller.schema, price_version=price.pk)
    submit(made)
    return made


def test_what_cannot_be_booked_is_tried_again_later_and_later_and_does_not_hold_up_others(
    unbookable: Job, host: Host, redis: Redis
) -> None:
    host.serve("echo")
    until(lambda: fields(unbookable.id).get("unbooked") == "1")
    watch.book_overdue()
    assert fields(unbookable.id)["state"] == "sealed"
    due = float(redis.zscore(jobs.SEALED, str(unbookable.id)) or 0)
    assert due > float(fields(unbookable.id)["sealed"]) + 1000
    assert sealed.put_off(unbookable.id)
    assert float(redis.zscore(jobs.SEALED, str(unbookable.id)) or 0) > due + 1000


def test_what_cannot_be_booked_however_often_fails_free_and_is_set_aside(
    unbookable: Job, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed, "MOST_TRIES", 1)
    host.serve("echo")
    until(lambda: ended(unbookable.id))
    [entry] = booked()
    assert (entry.state, entry.amount) == ("failed", 0)
    assert DeadLetter.objects.across_organizations().get().request == unbookable.id


def test_a_client_is_told_the_end_of_what_no_book_takes(
    one: Job, host: Host, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    Account.objects.across_organizations().update(currency="USD")
    monkeypatch.setattr(sealed, "MOST_TRIES", 1)
    host.serve("echo")
    until(lambda: ended(one.id))
    assert list(booked()) == []
    last = stream.read(one.organization, one.id)[-1]
    assert isinstance(last, stream.Ended)
    assert (last.reason, last.amount) == ("failed", 0)
    assert redis.zcard(jobs.SEALED) == 0


def test_what_is_sealed_and_forgotten_does_not_stand_before_others_for_ever(redis: Redis) -> None:
    gone = request_id(NOW)
    redis.zadd(jobs.SEALED, {str(gone): 1})
    finish([gone], now=NOW)
    assert redis.zcard(jobs.SEALED) == 0


def test_one_of_the_workers_books_what_ended_in_line() -> None:
    ended_in_line = request_id(NOW)
    assert [sealed.take(ended_in_line) for _ in range(3)] == [True, False, False]


def test_failure_is_booked_at_nothing(one: Job, host: Host, redis: Redis) -> None:
    redis.hset(f"job:{one.id}", "crashes", jobs.MOST_CRASHES - 1)
    jobs.claim(model="echo", worker="dead")
    redis.zadd(jobs.LEASES, {str(one.id): 0})
    watch.take_up()
    finish([one.id], now=NOW)
    [entry] = booked()
    assert (entry.state, entry.amount) == ("failed", 0)
    from django_tenants.utils import schema_context

    with schema_context("org_acme"):
        assert Request.objects.get().state == "failed"


def test_an_organization_that_runs_nothing_waits_for_no_crowd(
    one: Job, globex: Organization, echo: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is full of acme's; globex's one is claimed beyond its slots, and gets one."""
    from tests.inference.test_choices import Gated, of_engines

    runner = Gated(steps=3, slots=2, context=512)
    of_engines(monkeypatch, runner)
    crowd = [one, *(_like(one, max_tokens=300) for _ in range(3))]
    submit(*crowd[1:])
    host = Host([echo], slots=2)
    host.start()
    with serving(host, threads=4):
        assert runner.stands.wait(10)
        until(lambda: [fields(each.id)["state"] for each in crowd].count("running") == 2)
        small = _like(one, max_tokens=4, organization=globex.pk, schema=globex.schema_name)
        submit(small)
        until(lambda: fields(small.id)["state"] == "running")
        assert [fields(each.id)["state"] for each in crowd].count("running") == 2
        runner.open.set()
        until(lambda: "sealed" in fields(small.id))
        assert not all("sealed" in fields(each.id) for each in crowd)
        until(lambda: all(ended(each.id) for each in crowd))
    host.drain(0)


def test_a_claim_passes_over_organizations_but_takes_the_next(redis: Redis) -> None:
    mine, theirs = job(organization=1), job(organization=2)
    submit(mine, theirs)
    assert jobs.claim(model="echo", worker="w", passing_over={1, 2}) is None
    claimed = jobs.claim(model="echo", worker="w", passing_over={1})
    assert claimed is not None
    assert claimed.job.id == theirs.id
    claimed = jobs.claim(model="echo", worker="w")
    assert claimed is not None
    assert claimed.job.id == mine.id


def _like(one: Job, *, max_tokens: int, **fields: Any) -> Job:
    sampling = Sampling(max_tokens=max_tokens)
    return replace(one, id=request_id(datetime.now(UTC)), sampling=sampling, **fields)
