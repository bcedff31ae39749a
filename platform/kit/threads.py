"""Blocking work beside an event loop, in three pools, so that what is slow in one stalls no other.

Requests on their way to a model have the event loop's own threads. What runs no model has a few of
its own (`take_lane`): nobody there takes more than half of them, however much they ask at once, nor
longer than some seconds of the database. Long texts are read in threads that touch no database.
"""

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from django.db import close_old_connections, connection

from kit.statements import in_time

P = ParamSpec("P")
T = TypeVar("T")

_LANES = 4
"""Threads for what runs no model: half of a process's connections to the database."""
_EACH = _LANES // 2

_lanes = ThreadPoolExecutor(_LANES, "lanes")
_texts = ThreadPoolExecutor(2, "texts")
_lane: ContextVar[Hashable] = ContextVar("lane", default=None)


@dataclass(slots=True)
class _Lane:
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_EACH))
    users: int = 0


_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, _Lane]] = WeakKeyDictionary()


def take_lane(whose: Hashable) -> None:
    """What runs from here on, in this context, is one of theirs, and runs no model."""
    _lane.set(whose)


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Work on the database, in a thread that gives its connection back."""
    lane, call = _lane.get(), partial(work, *args, **kwargs)
    if lane is None:
        return await asyncio.to_thread(_done, call)
    return await _in_lane(lane, partial(_done, partial(_in_time, call)))


async def reading(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Work on a long text: the processor's alone."""
    call = partial(copy_context().run, partial(work, *args, **kwargs))
    return await asyncio.get_running_loop().run_in_executor(_texts, call)


async def _in_lane(whose: Hashable, work: Callable[[], T]) -> T:
    """The place in the lane falls free when the work ends, not when its caller leaves."""
    loop = asyncio.get_running_loop()
    lanes = _of_loop.setdefault(loop, {})
    lane = lanes.setdefault(whose, _Lane())
    lane.users += 1
    try:
        await lane.room.acquire()
    except BaseException:
        _left(lanes, whose, lane)
        raise

    def free() -> None:
        lane.room.release()
        _left(lanes, whose, lane)

    def ended(_: Future[T]) -> None:
        with suppress(RuntimeError):  # the loop has ended too
            loop.call_soon_threadsafe(free)

    future = _lanes.submit(copy_context().run, work)
    future.add_done_callback(ended)
    return await asyncio.wrap_future(future)


def _left(lanes: dict[Hashable, _Lane], whose: Hashable, lane: _Lane) -> None:
    lane.users -= 1
    if not lane.users:
        lanes.pop(whose, None)


def _done(work: Callable[[], T]) -> T:
    try:
        return work()
    finally:
        if not connection.in_atomic_block:
            close_old_connections()


def _in_time(work: Callable[[], T]) -> T:
    with in_time():
        return work()
