"""Who is killed, and how: drawn from a seed, so that a drill can be repeated."""

import asyncio
import random
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil
import redis

from config.stack.apart import Stack

_FROZEN_SECONDS = (2.0, 10.0)
"""How long, at random: half are longer than a lease, so that who wakes up finds its work taken."""
_PATIENCE_SECONDS = 4.0
"""How long PostgreSQL may wait for its clients after SIGTERM, which it would do without end: then
it is told to end them, as whoever supervises it would."""


@dataclass(frozen=True, slots=True)
class Victim:
    """A process of the platform, by words of its command line."""

    name: str
    words: tuple[str, ...] = ()
    hows: tuple[str, ...] = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGSTOP")
    then: tuple[str, ...] = ()
    """What follows SIGTERM, where that alone need not end it."""


_ANY = ("SIGKILL", "SIGTERM", "SIGSTOP")
WEB = Victim("web", ("uvicorn",))
WORKER = Victim("worker", ("celery_app", "worker"))
BEAT = Victim("beat", ("celery_app", "--schedule"))
VALKEY = Victim("valkey", ("valkey-server",))
POSTGRES = Victim("postgres", ("pginstall", "postgres"), then=("SIGINT", "SIGQUIT"))
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

    async def kill(self) -> None:
        """Kill one, if it is there to be killed."""
        victim = self._left[-1] if self._left else self._random.choice(self._endless)
        how = self._random.choice([h for h in victim.hows if h in self._hows] or victim.hows[:1])
        frozen = self._random.uniform(*_FROZEN_SECONDS)
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
            await _freeze(process, frozen)
        else:
            _signal(process, signal.Signals[how])
            if how == "SIGTERM":
                await _insist(process, victim.then)

    async def pause(self, seconds: float) -> None:
        """About so long."""
        await asyncio.sleep(seconds * self._random.uniform(0.5, 1.5))


async def _freeze(process: psutil.Process, seconds: float) -> None:
    """It and its children, so that a server that has one a connection answers nobody."""
    family = [process]
    with suppress(psutil.NoSuchProcess):
        family += process.children(recursive=True)
    try:
        for each in family:
            _signal(each, signal.SIGSTOP)
        await asyncio.sleep(seconds)
    finally:
        for each in family:
            _signal(each, signal.SIGCONT)


async def _insist(process: psutil.Process, then: Sequence[str]) -> None:
    for how in then:
        try:
            await asyncio.to_thread(process.wait, _PATIENCE_SECONDS)
        except psutil.TimeoutExpired:
            _signal(process, signal.Signals[how])
        else:
            return


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):  # never another that has its number since
        process.send_signal(number)
