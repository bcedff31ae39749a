"""How fast each model's line moves, measured; and how long it may grow.

Workers note how long requests ran and report it with their slots. From both the reaper reckons the
time from one request's turn to the next, and bounds the line: nobody is let in to wait for longer
than QUEUE_SECONDS. Who is refused is told when there will be room.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Any

import structlog
from django.conf import settings

from inference.fleet import Fleet
from inference.jobs import IMPATIENT, SEALED, in_class
from kit.redis import async_state, pipeline, state

_WEIGHT = 1 / 8
_KEPT_MS = 10_000
SHORT = "memory:short"
"""Stands in Redis while that is nearly full: submit.lua then lets nobody in."""
_NEARLY = 0.9
"""Of `maxmemory`, where one is set: what has been let in needs room for its answer."""


log = structlog.get_logger()


class Runs:
    """How long requests of each model ran in this process, the last ones counting most."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._seconds: dict[str, float] = {}

    def note(self, model: str, seconds: float) -> None:
        """One came to its own end after so long."""
        with self._lock:
            before = self._seconds.get(model, seconds)
            self._seconds[model] = before + (seconds - before) * _WEIGHT

    def seconds(self, model: str) -> float:
        """Of one request; 0 where none was seen."""
        return self._seconds.get(model, 0.0)


runs = Runs()


def watch_memory() -> None:
    """Tell admission while the state Redis is nearly full: at its end every append would fail."""
    client = state()
    memory = client.info("memory")
    if memory["maxmemory"] and memory["used_memory"] > _NEARLY * memory["maxmemory"]:
        # Prolonging takes no memory, so it does not fail where setting would.
        if not client.pexpire(SHORT, _KEPT_MS):
            client.set(SHORT, 1, px=_KEPT_MS)
            log.error("the state Redis is nearly full; nothing new is let in")
    elif client.delete(SHORT):
        log.info("the state Redis has room again")


def publish(fleet: Fleet) -> None:
    """Tell admission how long each model's line may be."""

    def bounds(pipe: Any) -> None:
        for model in fleet.waiting:
            if found := _pace(fleet, model):
                pipe.hset(f"queue:{model}:pace", mapping=found)
                pipe.pexpire(f"queue:{model}:pace", _KEPT_MS)

    pipeline(bounds)


def _pace(fleet: Fleet, model: str) -> dict[str, int] | None:
    """The most that may wait, and ms from one's turn to the next's, and of one's run; None while
    that is not known.

    A fourth of the slots may always wait, so that few are ever idle.
    """
    slots = fleet.slots(model)
    seconds = fleet.seconds(model)
    if not slots or not seconds:
        return None
    turn = seconds / slots
    return {
        "most": max(1, slots // 4, int(settings.QUEUE_SECONDS / turn)),
        "ms": max(1, round(turn * 1000)),
        "run_ms": round(seconds * 1000),
    }


async def room_in(model: str) -> float:
    """Seconds until the model's line has room for one more."""
    async with async_state().pipeline(transaction=False) as pipe:
        pipe.hmget(f"queue:{model}:pace", ["most", "ms"])
        for each in IMPATIENT:
            in_class(pipe, model, each)
        (most, ms), *waiting = await pipe.execute()
    over = sum(waiting) - int(most or 0) + 1
    return float(max(1.0, over * int(ms or 0) / 1000))


@dataclass(frozen=True, slots=True)
class Pressure:
    """What is more than usual."""

    full: tuple[str, ...]
    """Models whose lines let nobody in."""
    behind: float
    """How long the oldest sealed request waits to be booked, in seconds."""
    short: bool
    """Whether the state Redis is nearly full."""


async def pressure(waiting: Iterable[str]) -> Pressure:
    """Read it, in one round trip, of these models."""
    client = async_state()
    async with client.pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.zrange(SEALED, 0, 0, withscores=True)
        pipe.exists(SHORT)
        for model in waiting:
            pipe.hget(f"queue:{model}:pace", "most")
            for each in IMPATIENT:
                in_class(pipe, model, each)
        (seconds, micros), oldest, short, *found = await pipe.execute()
    now = seconds + micros / 1e6
    size = 1 + len(IMPATIENT)
    bounds = (found[at : at + size] for at in range(0, len(found), size))
    each_model = zip(waiting, bounds, strict=True)
    full = [model for model, (most, *counts) in each_model if most and sum(counts) >= int(most)]
    behind = max(0.0, now - oldest[0][1] / 1000) if oldest else 0.0
    return Pressure(tuple(full), behind, bool(short))
