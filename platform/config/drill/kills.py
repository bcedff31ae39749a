"""Who is killed, and how: drawn from a seed, so that a drill can be repeated."""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from config.stack.apart import Stack

_FROZEN_SECONDS = 8
"""Longer than a lease: the frozen process wakes up to find its work taken."""


@dataclass(frozen=True, slots=True)
class Victim:
    """A process of the platform, by words of its command line."""

    name: str
    words: tuple[str, ...]


WEB = Victim("web", ("uvicorn",))
WORKER = Victim("worker", ("celery_app", "worker"))
BEAT = Victim("beat", ("celery_app", "beat"))
VALKEY = Victim("valkey", ("valkey-server",))
POSTGRES = Victim("postgres", ("pginstall", "postgres"))
VICTIMS = {victim.name: victim for victim in (WEB, WORKER, BEAT, VALKEY, POSTGRES)}

_HOW = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)


class Killer:
    """Kills one process after another."""

    def __init__(self, stack: Stack, victims: Sequence[Victim], *, seed: int) -> None:
        self._stack = stack
        self._victims = victims
        self._random = random.Random(seed)  # noqa: S311  a drill that can be repeated
        self.done: Counter[str] = Counter()

    async def kill(self) -> None:
        """Kill one, if it is there to be killed."""
        victim = self._random.choice(self._victims)
        how = self._random.choice(_HOW) if victim in (WEB, WORKER, BEAT) else signal.SIGKILL
        try:
            process = await asyncio.to_thread(self._stack.find, *victim.words)
        except ValueError:
            return
        self.done[f"{victim.name} {how.name}"] += 1
        if how is signal.SIGSTOP:
            await _freeze(process)
        else:
            _signal(process, how)

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
