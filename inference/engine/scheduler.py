"""Who runs in a step: every running sequence decodes, and what room is left goes to prefills."""

import heapq
from dataclasses import dataclass
from itertools import count

from inference.engine.sequence import Sequence
from inference.engine.slots import Slots


@dataclass(frozen=True, slots=True)
class Step:
    """The work of one step; `prefills` are sequences, each with its next chunk."""

    decodes: list[Sequence]
    prefills: list[tuple[Sequence, list[int]]]


class Scheduler:
    """Admits by priority, then first in first out; a prefill is cut into chunks of `chunk` tokens.

    A step computes at most about `step_tokens` tokens, but always one chunk if any waits: prompts
    never stall the running, and the running never starve prompts.
    """

    def __init__(self, slots: Slots, *, step_tokens: int, chunk: int) -> None:
        self.slots = slots
        self.step_tokens = step_tokens
        self.chunk = chunk
        self._waiting: list[tuple[int, int, Sequence]] = []
        self._running: dict[str, Sequence] = {}
        self._arrivals = count()

    @property
    def running(self) -> int:
        """How many hold a slot."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        heapq.heappush(self._waiting, (sequence.work.priority, next(self._arrivals), sequence))

    def find(self, identifier: str) -> Sequence | None:
        """The sequence of that work, running or waiting."""
        return next((one for one in self.all() if one.work.id == identifier), None)

    def all(self) -> list[Sequence]:
        """Every sequence, the running first."""
        return [*self._running.values(), *(sequence for _, _, sequence in self._waiting)]

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence and free its slot."""
        if self._running.pop(sequence.work.id, None) is None:
            self._waiting = [entry for entry in self._waiting if entry[2] is not sequence]
            heapq.heapify(self._waiting)
        if sequence.slot is not None:
            self.slots.give(sequence.slot)
            sequence.slot = None

    def plan(self) -> Step:
        """Admit what fits, and say what to compute next."""
        self._admit()
        decodes = [sequence for sequence in self._running.values() if sequence.decoding]
        return Step(decodes, self._prefills(self.step_tokens - len(decodes)))

    def check(self) -> None:
        """Raise if slots and sequences disagree."""
        self.slots.check()
        held = [sequence.slot for sequence in self._running.values()]
        if None in held or len(set(held)) != len(held):
            raise RuntimeError(f"two sequences share a slot, or one has none: {held}")
        if self.slots.count - self.slots.free != len(held):
            raise RuntimeError("a slot is held by no sequence")
        if any(sequence.slot is not None for _, _, sequence in self._waiting):
            raise RuntimeError("a waiting sequence holds a slot")

    def _admit(self) -> None:
        while self._waiting and self.slots.free:
            _, _, sequence = heapq.heappop(self._waiting)
            sequence.slot = self.slots.take()
            self._running[sequence.work.id] = sequence

    def _prefills(self, room: int) -> list[tuple[Sequence, list[int]]]:
        chosen: list[tuple[Sequence, list[int]]] = []
        for sequence in self._running.values():
            if sequence.decoding:
                continue
            chunk = sequence.chunk(self.chunk)
            if chosen and len(chunk) > room:
                break
            chosen.append((sequence, chunk))
            room -= len(chunk)
        return chosen
