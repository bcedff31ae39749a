"""Who is killed, and how: drawn from a seed, so that a drill can be repeated."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil
import redis

from config.stack.apart import Stack

_FROZEN_SECONDS = 8
"""Longer than a lease: the frozen process wakes up to find its work taken."""


@dataclass(frozen=True, slots=True)
class Victim:
    """A process of the platform, by words of its command line."""

    name: str
    words: tuple[str, ...] = ()
    hows: tuple[str, ...] = ("SIGKILL",)


_ANY = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGSTOP")
WEB = Victim("web", ("uvicorn",), _ANY)
WORKER = Victim("worker", ("celery_app", "worker"), _ANY)
BEAT = Victim("beat", ("celery_app", "--schedule"), _ANY)
VALKEY = Victim("valkey", ("valkey-server",))
POSTGRES = Victim("postgres", ("pginstall", "postgres"))
FLUSH = Victim("flush", hows=("FLUSHDB",))
"""Not a process: the state Redis forgets all it knew."""
PROCESSES = {victim.name: victim for victim in (WEB, WORKER, BEAT, VALKEY, POSTGRES)}
VICTIMS = PROCESSES | {FLUSH.name: FLUSH}


@dataclass(frozen=True, slots=True)
class Kill:
    """One that was done: when (`time.monotonic`), who, how."""

    at: float
    victim: str
    how: str


class Killer:
    """Kills one process after another: of each victim as many as told, or without end."""

    def __init__(
        self,
        stack: Stack,
        victims: Mapping[str, int | None],
        *,
        hows: Sequence[str] = _ANY,
        seed: int,
    ) -> None:
        self._stack = stack
        self._random = random.Random(seed)  # noqa: S311  a drill that can be repeated
        self._endless = [VICTIMS[name] for name, count in victims.items() if count is None]
        self._left = [VICTIMS[name] for name, count in victims.items() for _ in range(count or 0)]
        self._random.shuffle(self._left)
        self._hows = set(hows)
        self.done: list[Kill] = []

    @property
    def is_through(self) -> bool:
        """Whether all that was told is done."""
        return not self._endless and not self._left

    @property
    def counts(self) -> dict[str, int]:
        """What was done, by victim and how."""
        return dict(sorted(Counter(f"{kill.victim} {kill.how}" for kill in self.done).items()))

    async def kill(self) -> None:
        """Kill one, if it is there to be killed."""
        victim = self._left[-1] if self._left else self._random.choice(self._endless)
        how = self._random.choice([h for h in victim.hows if h in self._hows] or victim.hows[:1])
        if victim is not FLUSH:
            found = await asyncio.to_thread(self._stack.find_all, *victim.words)
            if not found:
                return
            process = self._random.choice(found)
        if self._left:
            self._left.pop()
        self.done.append(Kill(time.monotonic(), victim.name, how))
        if victim is FLUSH:
            await asyncio.to_thread(redis.Redis.from_url(self._stack.redis_url).flushdb)
        elif how == "SIGSTOP":
            await _freeze(process)
        else:
            _signal(process, signal.Signals[how])

    async def pause(self, seconds: float) -> None:
        """About so long."""
        await asyncio.sleep(seconds * self._random.uniform(0.5, 1.5))


async def _freeze(process: psutil.Process) -> None:
    _signal(process, signal.SIGSTOP)
    await asyncio.sleep(_FROZEN_SECONDS)
    _signal(process, signal.SIGCONT)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return
