"""A model's bell: it wakes a worker that has the model, and is announced where nobody answers."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from time import monotonic, sleep

import pytest
from redis import Redis

from billing.models import Account
from inference import bell, jobs
from inference.catalog.offers import Offer
from inference.jobs import Job
from inference.worker import Host
from kit.ids import request_id
from tests.inference.parts import ECHO, submit

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _heard_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds can pass between two lines of a test where the machine is busy."""
    monkeypatch.setattr(bell, "HEARD_MS", 60_000)


def fresh(one: Job) -> Job:
    """The same request again, under another id."""
    return replace(one, id=request_id(datetime.now(UTC)))


def until(done: Callable[[], object]) -> None:
    """Wait until it is so."""
    end = monotonic() + 20
    while not done():
        assert monotonic() < end, "it never was so"
        sleep(0.005)


def ended(redis: Redis, *requests: Job) -> bool:
    """Whether all of them are through."""
    return all(redis.hget(f"job:{each.id}", "state") == b"done" for each in requests)


def test_a_worker_that_has_the_model_takes_what_comes_without_an_announcement(
    account: Account, host: Host, one: Job, announced: list[str], redis: Redis
) -> None:
    jobs.heard(ECHO)
    host.attend()
    until(lambda: redis.zcard(f"queue:{ECHO}:ears"))
    for _ in range(3):
        asked = fresh(one)
        assert submit(asked) == [False]
        until(partial(ended, redis, asked))
    assert announced == []


def test_workers_answer_in_turns(
    account: Account, echo: Offer, one: Job, announced: list[str], redis: Redis
) -> None:
    hosts = [Host([echo], slots=4) for _ in range(2)]
    try:
        for each in hosts:
            each.start()
            each.attend()
        until(lambda: redis.zcard(f"queue:{ECHO}:ears") == 2)
        jobs.heard(ECHO)
        took = set()
        for _ in range(6):
            asked = fresh(one)
            submit(asked)
            until(partial(ended, redis, asked))
            took.add(redis.hget(f"job:{asked.id}", "worker"))
        assert took == {each.name.encode() for each in hosts}
    finally:
        for each in hosts:
            each.drain(0)


def test_a_bell_that_nobody_answers_is_announced(
    account: Account, echo: Offer, one: Job, redis: Redis
) -> None:
    jobs.heard(ECHO)
    bell.listen("one that hangs", [ECHO])
    first, second = fresh(one), fresh(one)
    assert submit(first) == [False]
    sleep(bell.UNANSWERED_MS / 1000)
    assert submit(second) == [True]


def test_nobody_is_rung_for_who_has_gone_or_not_been_heard_of_for_long(
    account: Account, echo: Offer, one: Job, redis: Redis, host: Host
) -> None:
    jobs.heard(ECHO)
    host.attend()
    until(lambda: redis.zcard(f"queue:{ECHO}:ears"))
    host.drain(0)
    redis.zadd(f"queue:{ECHO}:ears", {"killed": 1})
    assert submit(fresh(one)) == [True]


def test_a_worker_that_leaves_lets_the_bell_ring_for_others(
    account: Account, echo: Offer, host: Host, one: Job, redis: Redis
) -> None:
    host.attend()
    until(lambda: redis.zcard(f"queue:{ECHO}:ears"))
    host._attendant.stop()
    bell.listen("another", [ECHO])
    redis.lpush(f"queue:{ECHO}:bell", 1)
    until(lambda: not host._attendant._thread.is_alive())
    assert redis.llen(f"queue:{ECHO}:bell") == 1
