"""Who runs in a step: every running sequence decodes, and what room is left goes to prefills."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from inference.engine.cache import Cache
from inference.engine.fairness import Served
from inference.engine.sequence import Sequence

AGEING = 256
"""Steps without progress that make an organization's requests one priority more urgent."""
PATIENCE = 32
"""Steps a request waits before it may take the slot of a less urgent one."""
FAVOURS = 5
"""Steps for organizations that run few requests, between two for everybody."""
CROWD = 16
"""How many decode in a step that is long enough for such favours."""

LEAST = 8
"""Tokens of each prompt that is read in a step beside decodes, where prompts may be cut anywhere;
of all together as many as decode, if that is more."""
ALIKE = 16
"""Tokens that two prompts share before one waits for the other to have computed them."""

Chunks = list[tuple[Sequence, list[int]]]
"""Parts of prompts that run together."""


@dataclass(frozen=True, slots=True)
class Step:
    """Who decodes, and how many tokens of prompts run beside: none (0), or at least a chunk."""

    decodes: list[Sequence]
    room: int


class Scheduler:
    """Shares slots and steps among requests.

    Order: priority, then the organization served least, then the first in. Requests of an
    organization and priority that get neither a slot nor a chunk for long grow more urgent, so that
    nothing starves. A request gives way for another's sake once at most, and never if it aged.

    A step computes at most about `step_tokens` tokens, but always one chunk of a prompt if any
    waits: prompts never stall the running, and the running never starve prompts. Where prompts may
    be cut anywhere (`free`), a step has as many tokens of them as it has decodes, so that it takes
    about twice as long as one without; eight for each prompt where that is more, so that a crowd
    begins together and ends together; and `step_tokens` of them where nothing decodes.
    """

    def __init__(self, cache: Cache, *, step_tokens: int, chunk: int, free: bool = False) -> None:
        self._cache = cache
        self._free = free
        self._step_tokens = step_tokens
        self._chunk = chunk
        self._waiting: dict[str, Sequence] = {}
        self._running: dict[str, Sequence] = {}
        self._served = Served()
        self._turns: dict[tuple[str, int], int] = {}
        self._arrivals = self._step = self._favours = 0

    @property
    def running(self) -> int:
        """How many hold a slot."""
        return len(self._running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        present = {one.work.tenant for one in self.all()}
        self._served.enter(sequence.work.tenant, present)
        self._turns = {key: step for key, step in self._turns.items() if key[0] in present}
        self._arrivals += 1
        sequence.number, sequence.since = self._arrivals, self._step
        self._waiting[sequence.work.id] = sequence

    def find(self, identifier: str) -> Sequence | None:
        """The sequence of that work, running or waiting."""
        return self._running.get(identifier) or self._waiting.get(identifier)

    def all(self) -> list[Sequence]:
        """Every sequence, the running first."""
        return [*self._running.values(), *self._waiting.values()]

    def remove(self, sequence: Sequence, *, keep: bool) -> None:
        """Forget a sequence and free its slot; whether its prompt may be used again."""
        self._waiting.pop(sequence.work.id, None)
        if self._running.pop(sequence.work.id, None) is not None:
            self._cache.give(sequence, keep=self._reusable(sequence) if keep else 0)

    def plan(self) -> Step:
        """Admit what fits, preempt what must give way, and say who runs next."""
        self._step += 1
        self._admit()
        while self._cache.is_short():
            self._preempt(max(self._running.values(), key=_rank), keep=False)
        decodes = [sequence for sequence in self._running.values() if sequence.decoding]
        favoured = self._favoured(decodes) if self._favours < FAVOURS else []
        self._favours = self._favours + 1 if favoured else 0
        for sequence in favoured or decodes:
            self._served.charge(sequence.work.tenant, Served.ANSWER)
        if favoured:
            return Step(favoured, room=0)
        return Step(decodes, room=self._room(len(decodes)))

    def prefills(self, step: Step) -> Iterator[Chunks]:
        """The chunks to run in a step, each list chosen once those before it have been computed.

        One prompt after the other, so that the next may begin with what the last left in the cache;
        together where they may be, and none begins as one of the others does.
        """
        room = step.room
        together: Chunks = []
        while room > 0 and (sequence := self._next_prefill(together)) is not None:
            size = min(self._chunk, room) if self._free else self._chunk
            if room < min(step.room, len(sequence.chunk(size))):
                break
            if self._begins_alike(sequence, together):
                yield together
                together = []
            if sequence.computed == 0:
                self._cache.reuse(sequence)
                sequence.begun = sequence.decoding
            if sequence.decoding and not self._free:
                continue
            chunk = sequence.chunk(size)
            room -= len(chunk)
            self._turns[_kind(sequence)] = self._step
            self._served.charge(sequence.work.tenant, len(chunk) * Served.PROMPT)
            sequence.begun = True
            together.append((sequence, chunk))
            if not self._free:
                yield together
                together = []
        if together:
            yield together

    def served(self, sequence: Sequence, tokens: int) -> None:
        """So many more tokens of its answer were made than `plan` had counted."""
        self._served.charge(sequence.work.tenant, tokens * Served.ANSWER)

    def twins(self, sequence: Sequence) -> list[Sequence]:
        """Those of its group that hold a slot and have computed nothing of the same prompt."""
        work = sequence.work
        return [
            one
            for one in self._running.values()
            if work.group
            and one is not sequence
            and one.work.group == work.group
            and one.work.tenant == work.tenant
            and one.tokens == sequence.tokens
            and one.computed == 0
        ]

    def check(self) -> None:
        """Raise if slots and sequences disagree."""
        self._cache.check()
        held = [sequence.slot for sequence in self._running.values()]
        if None in held or len(set(held)) != len(held):
            raise RuntimeError(f"two sequences share a slot, or one has none: {held}")
        if any(sequence.slot is not None for sequence in self._waiting.values()):
            raise RuntimeError("a waiting sequence holds a slot")

    def _order(self, sequence: Sequence) -> tuple[int, int, int]:
        urgency = sequence.work.priority - self._age(sequence)
        return urgency, self._served[sequence.work.tenant], sequence.number

    def _age(self, sequence: Sequence) -> int:
        idle = self._step - max(sequence.since, self._turns.get(_kind(sequence), 0))
        return idle // AGEING

    def _admit(self) -> None:
        while self._waiting:
            sequence = min(self._waiting.values(), key=self._order)
            if not self._cache.take(sequence) and not self._take_over(sequence):
                return
            sequence.stays |= self._age(sequence) > 0
            self._turns[_kind(sequence)] = self._step
            del self._waiting[sequence.work.id]
            self._running[sequence.work.id] = sequence

    def _take_over(self, sequence: Sequence) -> bool:
        """Preempt somebody for a sequence, if that is fair; whether it has a slot then."""
        victim = self._victim(sequence)
        if victim is None:
            return False
        victim.stays = True
        self._preempt(victim, keep=True)
        return self._cache.take(sequence)

    def _victim(self, sequence: Sequence) -> Sequence | None:
        """Who gives way: for an organization that runs nothing, the last of that which runs most;
        for a request that waited long, a less urgent one.
        """
        work, held = sequence.work, Counter(one.work.tenant for one in self._running.values())
        most = max(held.values(), default=0)
        is_new = work.tenant not in held and most > 1
        waited = self._step - sequence.since >= PATIENCE
        may = [
            one
            for one in self._running.values()
            if not one.stays
            and (
                (waited and one.work.priority > work.priority)
                or (is_new and held[one.work.tenant] == most and one.work.priority >= work.priority)
            )
        ]
        return max(may, key=_rank, default=None)

    def _preempt(self, sequence: Sequence, *, keep: bool) -> None:
        """Back to its place in line; what no shelf takes is computed again, to the same bits."""
        self._cache.give(sequence, keep=sequence.computed if keep else 0)
        sequence.rewind()
        del self._running[sequence.work.id]
        self._waiting[sequence.work.id] = sequence

    def _favoured(self, decodes: list[Sequence]) -> list[Sequence]:
        """Those of organizations that decode less than half of an even share beside bigger ones.

        Beside many, a few pay with long steps for what others do; so they get short ones between.
        """
        if len(decodes) < CROWD:
            return []
        held = Counter(one.work.tenant for one in decodes)
        return [one for one in decodes if 2 * held[one.work.tenant] * len(held) < len(decodes)]

    def _room(self, decodes: int) -> int:
        """For tokens of prompts beside so many decodes."""
        if self._free:
            readers = len(self._running) - decodes
            wanted = max(decodes, LEAST * readers) if decodes else self._step_tokens
            return min(wanted, self._step_tokens)
        return max(1, self._step_tokens - decodes)

    def _reusable(self, sequence: Sequence) -> int:
        """How many of its tokens others may begin with."""
        if self._free:
            return sequence.computed
        return min(sequence.computed, len(sequence.work.prompt)) // self._chunk * self._chunk

    def _next_prefill(self, together: Chunks) -> Sequence | None:
        taken = {sequence.work.id for sequence, _ in together}
        left = (
            one for one in self._running.values() if not one.decoding and one.work.id not in taken
        )
        return min(left, key=self._order, default=None)

    def _begins_alike(self, sequence: Sequence, together: Chunks) -> bool:
        """Whether it could begin with what one of the others is about to compute."""
        return sequence.computed == 0 and any(
            other.work.tenant == sequence.work.tenant
            and other.computed == 0
            and other.tokens[:ALIKE] == sequence.tokens[:ALIKE]
            for other, _ in together
        )


def _kind(sequence: Sequence) -> tuple[str, int]:
    return sequence.work.tenant, sequence.work.priority


def _rank(sequence: Sequence) -> tuple[int, int]:
    """The greater, the sooner it gives way."""
    return sequence.work.priority, sequence.number
