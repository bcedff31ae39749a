"""Announcements: gathered, spread over workers, handed on by those that are full."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.models import Account
from inference import jobs
from inference.announce import Announcement, gathered
from inference.catalog.offers import Offer
from inference.jobs import Claim, Job
from inference.worker import Host
from kit.ids import request_id
from tests.inference.parts import ECHO, submit

WORKS = st.lists(
    st.builds(
        Announcement, st.sampled_from("ab"), st.just("q"), st.integers(1, 9), st.integers(0, 2)
    ),
    min_size=1,
)


@given(WORKS)
def test_gathered_announcements_speak_of_the_same_requests(found: list[Announcement]) -> None:
    told = list(gathered(found))
    assert max(work.count for work in told) <= 4
    assert _counts(told) == _counts(found)
    assert len(told) <= sum(work.count for work in found)


def _counts(works: list[Announcement]) -> Counter[tuple[str, int]]:
    counts = Counter[tuple[str, int]]()
    for work in works:
        counts[work.model, work.passed] += work.count
    return counts


@pytest.mark.django_db(transaction=True)
def test_a_full_worker_hands_an_announcement_on_so_many_times_and_no_more(
    account: Account, echo: Offer, announced: list[str], one: Job
) -> None:
    host = Host([echo], slots=1)
    host.start()
    try:
        station = host._stations[ECHO]
        while station.take_slot(spare=True):
            pass
        host.heed(ECHO, count=1, passed=0)
        assert announced[-1:] == [ECHO]
        told = len(announced)
        host.heed(ECHO, count=1, passed=8)
        assert len(announced) == told
        assert jobs.unclaimed(ECHO, older_than_ms=0) == 1
    finally:
        host.drain(0)


@pytest.mark.django_db(transaction=True)
def test_nothing_that_waits_is_nothing_to_hand_on(
    account: Account, echo: Offer, announced: list[str]
) -> None:
    host = Host([echo], slots=1)
    host.start()
    try:
        while host._stations[ECHO].take_slot(spare=True):
            pass
        host.heed(ECHO, count=3, passed=0)
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
def test_an_idle_worker_takes_half_its_room_of_what_waits(
    account: Account, echo: Offer, one: Job
) -> None:
    host = Host([echo], slots=8)
    host.start()
    try:
        submit(*(replace(one, id=request_id(datetime.now(UTC))) for _ in range(7)))
        host.heed(ECHO, count=1, passed=0)
        assert jobs.unclaimed(ECHO, older_than_ms=0) == 4
        host.heed(ECHO, count=3, passed=0)
        assert jobs.unclaimed(ECHO, older_than_ms=0) <= 1
    finally:
        host.drain(0)
