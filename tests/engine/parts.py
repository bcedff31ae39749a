"""Pieces from which engine tests are made."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

import numpy as np

from inference.engine import Delta, Engine, Logits, Outcome, Sampling, Work
from inference.engine.text import ByteText

RAISES, NOT_A_NUMBER, NO_MEMORY = 7, 8, 9
"""Tokens at which a HashRunner breaks."""


class HashRunner:
    """A model of bytes whose logits are a hash of everything before: any slip in the cache shows.

    Reads out of turn (a gap, a slot used after its release) raise, as do rows that hold RAISES or
    NO_MEMORY. An `endless` one says none of those, nor the end.
    """

    def __init__(
        self, *, slots: int = 4, context: int = 256, shelves: int = 2, endless: bool = False
    ) -> None:
        self.slots = slots
        self.shelves = shelves
        self.context = context
        self.calls: list[tuple[str, int]] = []
        self._never = [RAISES, NOT_A_NUMBER, NO_MEMORY, ByteText.END] if endless else []
        self._tokens: dict[int, list[int]] = defaultdict(list)

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Logits:
        self.calls.append(("prefill", len(tokens)))
        self._write(slot, tokens, start)
        return self._logits([slot])

    def decode(
        self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]
    ) -> Logits:
        self.calls.append(("decode", len(slots)))
        for slot, token, position in zip(slots, tokens, positions, strict=True):
            self._write(slot, [token], position)
        return self._logits(slots)

    def copy(self, source: int, target: int, length: int) -> None:
        if length > len(self._tokens[source]):
            raise RuntimeError(f"place {source} holds less than {length} tokens")
        self._tokens[target] = self._tokens[source][:length]

    def release(self, slot: int) -> None:
        self._tokens.pop(slot, None)

    @property
    def held(self) -> set[int]:
        """Slots that were not released."""
        return {place for place in self._tokens if place < self.slots}

    def _write(self, slot: int, tokens: Sequence[int], start: int) -> None:
        held = self._tokens[slot]
        if start > len(held) or start + len(tokens) > self.context:
            raise RuntimeError(f"slot {slot} holds {len(held)} tokens; written at {start}")
        held[start:] = tokens

    def _logits(self, slots: Sequence[int]) -> Logits:
        return np.stack([self._row(self._tokens[slot]) for slot in slots])

    def _row(self, tokens: list[int]) -> Logits:
        if RAISES in tokens:
            raise RuntimeError("poison")
        if NO_MEMORY in tokens:
            raise MemoryError("poison")
        digest = blake2b(repr(tokens).encode(), digest_size=8).digest()
        row = np.random.default_rng(int.from_bytes(digest)).normal(0, 3, ByteText.END + 1)
        row[ByteText.END] -= 6
        row[self._never] = -1e9
        if NOT_A_NUMBER in tokens:
            row[3] = np.nan
        return row.astype(np.float32)


class RowHashRunner(HashRunner):
    """The same, whose tokens may be run together in any way."""

    @property
    def most_rows(self) -> int:
        return self.slots + 64

    def run(
        self,
        slots: Sequence[int],
        tokens: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
    ) -> Logits:
        self.calls.append(("run", len(slots)))
        if len(slots) > self.most_rows:
            raise RuntimeError(f"{len(slots)} rows")
        found = []
        for row, (slot, token, position) in enumerate(zip(slots, tokens, positions, strict=True)):
            self._write(slot, [token], position)
            if row in wanted:
                found.append(self._row(self._tokens[slot]))
        return np.stack(found) if found else np.empty((0, ByteText.END + 1), np.float32)


@dataclass
class Answer:
    """What a request got; how much of it the cache had is not part of the answer."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    outcome: Outcome | None = None
    cached: int = field(default=0, compare=False)


class Answers(dict[str, Answer]):
    """Collects deltas, and holds them to what the engine promises of any stream."""

    def take(self, deltas: Iterable[Delta]) -> None:
        for delta in deltas:
            answer = self.setdefault(delta.id, Answer())
            assert answer.outcome is None, "a stream ends exactly once"
            if answer.tokens:
                assert delta.position == len(answer.tokens), "no gap and no repeat"
            else:
                answer.tokens = [-1] * delta.position
            answer.tokens += delta.tokens
            answer.text += delta.text
            if delta.outcome:
                answer.outcome = replace(delta.outcome, cached_tokens=0)
                answer.cached = delta.outcome.cached_tokens
                assert delta.outcome.completion_tokens == len(answer.tokens)

    def take_rest(self, engine: Engine) -> None:
        """Step the engine until it is empty, its books checked after each step."""
        for _ in range(20_000):
            if not engine.stats().running + engine.stats().waiting:
                return
            self.take(engine.step())
            engine.check()
        raise AssertionError("the engine does not come to an end")


def finish(engine: Engine) -> Answers:
    """Everything the engine still delivers."""
    answers = Answers()
    answers.take_rest(engine)
    return answers


def solo(engine: Engine, work: Work) -> Answer:
    """What a work gets when it is alone in the engine."""
    engine.submit(work)
    return finish(engine)[work.id]


def work(
    name: str = "one",
    prompt: Sequence[int] = (1, 2, 3),
    *,
    max_tokens: int = 12,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: tuple[str, ...] = (),
    emitted: tuple[int, ...] = (),
    priority: int = 1,
    deadline: float | None = None,
    tenant: str = "acme",
    adapter: str = "",
) -> Work:
    """A work of alice's, unless told."""
    return Work(
        id=name,
        tenant=tenant,
        prompt=tuple(prompt),
        sampling=Sampling(max_tokens, temperature, top_p, seed, stop),
        emitted=emitted,
        priority=priority,
        deadline=deadline,
        adapter=adapter,
    )
