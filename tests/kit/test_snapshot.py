"""A snapshot is read at once, renewed behind the reader's back, and survives a bad renewal."""

import asyncio
import time
from threading import Event

import pytest

from kit.snapshot import Snapshot


class Source:
    """Counts its loads, and can be made to fail or to take its time."""

    def __init__(self) -> None:
        self.loads = 0
        self.broken = False
        self.may_go = Event()
        self.may_go.set()

    def __call__(self) -> int:
        assert self.may_go.wait(10)
        if self.broken:
            raise ConnectionError("no database")
        self.loads += 1
        return self.loads


def test_a_young_value_is_not_loaded_again() -> None:
    snapshot = Snapshot(source := Source(), seconds=60)
    assert [snapshot.get(), snapshot.get()] == [1, 1]
    assert source.loads == 1


def test_a_thread_gets_an_old_value_renewed() -> None:
    snapshot = Snapshot(Source(), seconds=0)
    assert snapshot.get() == 1
    time.sleep(0.001)
    assert snapshot.get() == 2


def test_a_forgotten_value_is_loaded_at_the_next_read() -> None:
    snapshot = Snapshot(Source(), seconds=60)
    snapshot.get()
    snapshot.forget()
    assert snapshot.get() == 2


def test_the_first_read_that_fails_says_so() -> None:
    source = Source()
    source.broken = True
    with pytest.raises(ConnectionError):
        Snapshot(source, seconds=60).get()


async def test_the_event_loop_never_waits_for_a_renewal() -> None:
    snapshot = Snapshot(source := Source(), seconds=0)
    assert await snapshot.aget() == 1
    source.may_go.clear()
    assert await snapshot.aget() == 1
    assert await snapshot.aget() == 1
    source.may_go.set()
    assert snapshot._renewal is not None
    await snapshot._renewal
    assert await snapshot.aget() == 2


async def test_a_failed_renewal_leaves_the_old_value() -> None:
    snapshot = Snapshot(source := Source(), seconds=0)
    await snapshot.aget()
    source.broken = True
    assert await snapshot.aget() == 1
    assert snapshot._renewal is not None
    await snapshot._renewal
    assert await snapshot.aget() == 1
    await snapshot._renewal


async def test_many_first_readers_share_one_load() -> None:
    snapshot = Snapshot(source := Source(), seconds=60)
    assert await asyncio.gather(*(snapshot.aget() for _ in range(20))) == [1] * 20
    assert source.loads == 1
