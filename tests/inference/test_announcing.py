"""Announcements: one at a time, spread over workers, passed on by those that are full."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from redis import Redis

from billing.models import Account
from inference import jobs
from inference.catalog.offers import Offer
from inference.jobs import Claim, Job
from inference.worker import Host
from kit.ids import request_id
from tests.inference.parts import ECHO, submit


@pytest.mark.django_db(transaction=True)
def test_one_announcement_is_under_way_at_a_time(account: Account, echo: Offer, one: Job) -> None:
    crowd = [replace(one, id=request_id(datetime.now(UTC))) for _ in range(4)]
    jobs.heard(ECHO)
    assert submit(*crowd[:3]) == [True, False, False]
    jobs.heard(ECHO)
    assert submit(crowd[3]) == [True]


@pytest.mark.django_db(transaction=True)
def test_a_full_worker_passes_an_announcement_on_to_each_other_and_then_no_more(
    account: Account, echo: Offer, announced: list[str], one: Job, redis: Redis
) -> None:
    host = Host([echo], slots=1)
    host.start()
    redis.sadd("workers", host.name, "another", "a third")
    try:
        station = host._stations[ECHO]
        while station.take_slot(spare=True):
            pass
        host.heed(ECHO, passed=0)
        assert announced == [ECHO]
        host.heed(ECHO, passed=1)
        assert announced == [ECHO, ECHO]
        host.heed(ECHO, passed=2)
        assert announced == [ECHO, ECHO]
        assert jobs.unclaimed(ECHO, older_than_ms=0) == 1
    finally:
        host.drain(0)


@pytest.mark.django_db(transaction=True)
def test_while_all_are_full_only_an_organization_that_had_nothing_in_line_is_announced(
    account: Account, echo: Offer, one: Job, redis: Redis
) -> None:
    redis.sadd("workers", "a full one")
    jobs.heard(ECHO)
    assert not jobs.to_be_told(ECHO, passed=1)
    fresh = [replace(one, id=request_id(datetime.now(UTC))) for _ in range(2)]
    assert submit(fresh[0]) == [False]
    assert submit(replace(fresh[1], organization=2)) == [True]


@pytest.mark.django_db(transaction=True)
def test_nothing_that_waits_is_nothing_to_hand_on(
    account: Account, echo: Offer, announced: list[str]
) -> None:
    host = Host([echo], slots=1)
    host.start()
    try:
        while host._stations[ECHO].take_slot(spare=True):
            pass
        host.heed(ECHO, passed=0)
        assert announced == []
    finally:
        host.drain(0)


@pytest.mark.django_db(transaction=True)
def test_a_full_worker_that_finds_nothing_to_claim_does_not_look_again(
    account: Account, echo: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host([echo], slots=1)
    host.start()
    asked: list[str] = []
    claim = jobs.claim

    def counted(**how: Any) -> Claim | None:
        asked.append(how["model"])
        return claim(**how)

    try:
        assert host._stations[ECHO].take_slot()
        monkeypatch.setattr(jobs, "claim", counted)
        assert host.serve(ECHO) == 0
        assert asked == [ECHO]
        assert not host._stations[ECHO]._claimer._woken.is_set()
    finally:
        host.drain(0)


@pytest.mark.django_db(transaction=True)
def test_an_idle_worker_takes_half_its_room_of_what_waits_and_has_the_next_told(
    account: Account, echo: Offer, one: Job, announced: list[str]
) -> None:
    host = Host([echo], slots=8)
    host.start()
    try:
        submit(*(replace(one, id=request_id(datetime.now(UTC))) for _ in range(7)))
        host.heed(ECHO, passed=0)
        assert jobs.unclaimed(ECHO, older_than_ms=0) == 4
        assert announced == [ECHO]
        for _ in range(4):
            host.heed(ECHO, passed=0)
        assert jobs.unclaimed(ECHO, older_than_ms=0) == 0
    finally:
        host.drain(0)
