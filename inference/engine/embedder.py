"""Texts to vectors: one thread that batches the rows of all requests together."""

import logging
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from threading import Condition
from typing import Protocol

import numpy as np

from inference.engine.delta import Delta, FinishReason, Outcome
from inference.engine.engine import EngineClosed, EngineStats
from inference.engine.fairness import Served
from inference.engine.texts import Texts, Vectors
from inference.engine.work import ContextOverflow, Prompt, Work

log = logging.getLogger(__name__)

_STEP_TOKENS = 2_048
"""Computed between two looks at arrivals and cancellations: about half a second's work."""

Publish = Callable[[Sequence[Delta]], None]


class _Held:
    """A work in progress."""

    def __init__(self, work: Texts) -> None:
        self.work = work
        self.left = deque(enumerate(work.rows()))
        self.missing = len(work.lengths)
        self.vectors: Vectors | None = None

    def take(self, number: int, vector: Vectors) -> bool:
        """Note a row's vector; whether it was the last."""
        if self.vectors is None:
            self.vectors = np.empty((len(self.work.lengths), vector.size), "<f4")
        self.vectors[number] = vector
        self.missing -= 1
        return self.missing == 0

    def end(self, reason: FinishReason, error: str = "") -> Delta:
        """Its only delta."""
        text = ""
        if reason is FinishReason.stop and self.vectors is not None:
            text = b64encode(self.vectors.tobytes()).decode()
        outcome = Outcome(reason, len(self.work.prompt), 0, 0, error)
        return Delta(self.work.id, 0, (), text, outcome)


@dataclass(frozen=True, slots=True)
class _Row:
    held: _Held
    number: int
    tokens: Prompt


class Encoder(Protocol):
    """Makes a vector of each row of tokens."""

    @property
    def context(self) -> int: ...

    def padded(self, tokens: int) -> int:
        """How many a row of so many takes."""
        ...

    def run(self, rows: Sequence[Prompt]) -> Vectors:
        """Vectors [rows, dimensions] of rows that are padded to the same length."""
        ...


class Embedder:
    """Batches rows over an encoder: by priority, then of the organization served least.

    What `Engine` is for a language model; see there. Many texts of one request are no reason for
    others to wait: each step takes rows of everybody's.
    """

    adapters: frozenset[str] = frozenset()

    def __init__(self, encoder: Encoder, *, step_tokens: int = _STEP_TOKENS) -> None:
        self._encoder = encoder
        self._step_tokens = step_tokens
        self._changed = Condition()
        self._held: dict[str, _Held] = {}
        self._ended: list[Delta] = []
        self._served = Served()
        self._closed = False
        self._prompt_tokens = self._steps = 0

    def submit(self, work: Work) -> None:
        """Take a work. Raises EngineClosed, ContextOverflow, ValueError (no text; id in use)."""
        if not isinstance(work, Texts) or not work.lengths or not all(work.lengths):
            raise ValueError(f"work {work.id} has no texts, or an empty one")
        if sum(work.lengths) != len(work.prompt):
            raise ValueError(f"work {work.id}: its texts are not as long as it says")
        if max(work.lengths) > self._encoder.context:
            raise ContextOverflow(max(work.lengths), self._encoder.context)
        with self._changed:
            if self._closed:
                raise EngineClosed("the engine is stopping")
            if work.id in self._held:
                raise ValueError(f"work {work.id} is already in the engine")
            self._served.enter(work.tenant, (each.work.tenant for each in self._held.values()))
            self._held[work.id] = _Held(work)
            self._changed.notify()

    def cancel(self, identifier: str, reason: FinishReason = FinishReason.cancelled) -> None:
        """End a work within a step; nothing if it is not here."""
        with self._changed:
            held = self._held.pop(identifier, None)
            if held is not None:
                self._ended.append(held.end(reason))
                self._changed.notify()

    def stop(self) -> None:
        """Take no more work; `run` hands over what is left."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def unbegun(self) -> frozenset[str]:
        """See `Engine`; here all begin together."""
        return frozenset()

    def stats(self) -> EngineStats:
        """What it does and has done."""
        with self._changed:
            running = len(self._held)
        return EngineStats(running, 0, self._prompt_tokens, 0, 0, self._steps)

    def run(self, publish: Publish) -> None:
        """Step until `stop`, handing the ends to `publish` in this thread."""
        try:
            while not self._wait():
                if deltas := self.step():
                    publish(deltas)
            if left := self._hand_over():
                publish(left)
        finally:
            self.stop()

    def step(self) -> list[Delta]:
        """Some rows of everybody's; the ends that came of them, and those of cancelled works."""
        rows = self._choose()
        for _, alike in groupby(rows, lambda row: self._encoder.padded(len(row.tokens))):
            self._compute(list(alike))
        self._steps += 1
        with self._changed:
            ended, self._ended = self._ended, []
        return ended

    def _wait(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._held or self._ended)
            return self._closed

    def _choose(self) -> list[_Row]:
        """The rows of a step, the shortest first: those of one length run together."""
        rows: list[_Row] = []
        room = self._step_tokens
        with self._changed:
            while waiting := [each for each in self._held.values() if each.left]:
                held = min(waiting, key=self._turn)
                number, tokens = held.left[0]
                room -= self._encoder.padded(len(tokens))
                if rows and room < 0:
                    break
                held.left.popleft()
                self._served.charge(held.work.tenant, len(tokens))
                rows.append(_Row(held, number, tokens))
        return sorted(rows, key=lambda row: len(row.tokens))

    def _turn(self, held: _Held) -> tuple[int, int]:
        return held.work.priority, self._served[held.work.tenant]

    def _compute(self, rows: Sequence[_Row]) -> None:
        try:
            vectors = self._encoder.run([row.tokens for row in rows])
        except Exception as error:
            log.exception("texts could not be embedded")
            for row in rows:
                self._fail(row.held, f"{type(error).__name__}: {error}"[:400])
            return
        self._prompt_tokens += sum(len(row.tokens) for row in rows)
        for row, vector in zip(rows, vectors, strict=True):
            if not np.isfinite(vector).all():
                self._fail(row.held, "the encoder's vector is no number")
            elif row.held.take(row.number, vector):
                self._end(row.held, FinishReason.stop)

    def _fail(self, held: _Held, error: str) -> None:
        self._end(held, FinishReason.failed, error)

    def _end(self, held: _Held, reason: FinishReason, error: str = "") -> None:
        """Once: a work that was cancelled meanwhile has had its end."""
        with self._changed:
            if self._held.get(held.work.id) is held:
                del self._held[held.work.id]
                self._ended.append(held.end(reason, error))

    def _hand_over(self) -> list[Delta]:
        with self._changed:
            left = [held.end(FinishReason.handed_over) for held in self._held.values()]
            self._held.clear()
            ended, self._ended = self._ended, []
        return ended + left
