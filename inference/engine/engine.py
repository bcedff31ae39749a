"""The engine: one thread that steps all requests together."""

import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass
from threading import Condition

from inference.engine.apart import Apart
from inference.engine.cache import Cache
from inference.engine.delta import Delta, FinishReason
from inference.engine.grammar import Grammars
from inference.engine.ran import Ran
from inference.engine.runner import RowRunner, Runner, Wearing
from inference.engine.scheduler import Scheduler
from inference.engine.sequence import Sequence
from inference.engine.text import Text
from inference.engine.together import Together
from inference.engine.work import ContextOverflow, Work

log = logging.getLogger(__name__)

Publish = Callable[[Many[Delta]], None]


class EngineClosed(Exception):
    """The engine takes no more work; another worker must."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Now running and waiting; the others count since the start, cached tokens as prompt's too."""

    running: int
    waiting: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    steps: int


class Engine:
    """Continuous batching over one runner.

    `submit`, `cancel`, `stop`, `stats` and `free_slots` may be called from any thread; `run` owns
    the calling thread. `step_tokens` bounds the tokens computed in a step, `chunk` those of one
    prompt between two decodes; `cache_tokens` what the cache holds at most, running and kept
    (default: as many as all slots and shelves can); `drafts` up to how many rows a step grows by
    tokens that are guessed and verified, where the runner allows it (0: nothing is guessed).
    """

    def __init__(
        self,
        runner: Runner,
        text: Text,
        *,
        slots: int | None = None,
        step_tokens: int | None = None,
        chunk: int | None = None,
        cache_tokens: int | None = None,
        drafts: int = 8,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        slots = runner.slots if slots is None else slots
        if slots > runner.slots:
            raise ValueError(f"{slots} slots asked of a runner that has {runner.slots}")
        self.text = text
        self._runner = runner
        self._slots = slots
        self._clock = clock
        self._free = isinstance(runner, RowRunner)
        step_tokens = step_tokens or (256 if self._free else 64)
        chunk = chunk or (step_tokens if self._free else 32)
        self._grammars = Grammars(text)
        room = runner.context * (slots + runner.shelves) if cache_tokens is None else cache_tokens
        cache = Cache(runner, slots=slots, room=room, chunk=chunk)
        self._scheduler = Scheduler(cache, step_tokens=step_tokens, chunk=chunk, free=self._free)
        self._stepper = (
            Together(runner, drafts)
            if isinstance(runner, RowRunner)
            else Apart(runner, self._scheduler.twins)
        )
        self._changed = Condition()
        self._held: set[str] = set()
        self._arrived: list[Sequence] = []
        self._cancels: dict[str, FinishReason] = {}
        self._closed = False
        self._prompt_tokens = self._cached_tokens = self._generated_tokens = self._steps = 0

    @property
    def adapters(self) -> frozenset[str]:
        """What works may wear."""
        return self._runner.adapters if isinstance(self._runner, Wearing) else frozenset()

    def submit(self, work: Work) -> None:
        """Take a work. Raises EngineClosed, ContextOverflow, ValueError (no prompt; id in use; a
        grammar that is refused). The grammar is compiled in the calling thread.
        """
        limit = min(self.text.context, self._runner.context)
        if not work.prompt:
            raise ValueError("a prompt needs at least one token")
        if len(work.prompt) >= limit:
            raise ContextOverflow(len(work.prompt), limit)
        if work.adapter and work.adapter not in self.adapters:
            raise ValueError(f"the engine has no adapter {work.adapter!r}")
        matcher = self._grammars.matcher(work.sampling.grammar)
        sequence = Sequence(work, self.text, matcher, free=self._free)
        with self._changed:
            if self._closed:
                raise EngineClosed("the engine is stopping")
            if work.id in self._held:
                raise ValueError(f"work {work.id} is already in the engine")
            self._held.add(work.id)
            self._arrived.append(sequence)
            self._changed.notify()

    def cancel(self, identifier: str, reason: FinishReason = FinishReason.cancelled) -> None:
        """End a work within a step, for `reason`; nothing if the engine does not hold it."""
        with self._changed:
            if identifier in self._held:
                self._cancels[identifier] = reason
                self._changed.notify()

    def stop(self) -> None:
        """Take no more work; `run` hands over what is left and returns after this step."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def free_slots(self) -> int:
        """How many more works would run at once."""
        return max(0, self._slots - len(self._held))

    def stats(self) -> EngineStats:
        """What the engine does and has done."""
        running = self._scheduler.running
        return EngineStats(
            running=running,
            waiting=max(0, len(self._held) - running),
            prompt_tokens=self._prompt_tokens + self._cached_tokens,
            cached_tokens=self._cached_tokens,
            generated_tokens=self._generated_tokens,
            steps=self._steps,
        )

    def unbegun(self) -> frozenset[str]:
        """The works of which nothing new has been run yet: an earlier worker came as far."""
        with self._changed:
            arrived = [*self._arrived]
        return frozenset(one.work.id for one in (*arrived, *self._scheduler.all()) if one.is_behind)

    def run(self, publish: Publish) -> None:
        """Step until `stop`, handing each step's deltas to `publish` in this thread.

        A step that raises fails the works it concerns; the others go on. What `publish` raises
        ends the run: tokens that nobody took must not be followed by more.
        """
        try:
            while not self._wait():
                deltas = self.step()
                if deltas:
                    publish(deltas)
            left = self._hand_over()
            if left:
                publish(left)
        finally:
            self.stop()

    def step(self) -> list[Delta]:
        """One step: arrivals, cancels and deadlines; then every decode, then chunks of prefill."""
        deltas = [*self._take_orders(), *self._take_deadlines()]
        step = self._scheduler.plan()
        for ran in self._stepper.run(step.decodes, self._scheduler.prefills(step)):
            if (delta := self._news(ran)) is not None:
                deltas.append(delta)
        self._steps += 1
        return deltas

    def check(self) -> None:
        """Raise if the engine's own books disagree; for tests and debugging."""
        self._scheduler.check()

    def _wait(self) -> bool:
        """Sleep while there is nothing to do; whether to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._held)
            return self._closed

    def _take_orders(self) -> list[Delta]:
        with self._changed:
            arrived, self._arrived = self._arrived, []
            cancels, self._cancels = self._cancels, {}
        deltas = [delta for one in arrived if (delta := self._enter(one))]
        found = ((self._scheduler.find(one), reason) for one, reason in cancels.items())
        return deltas + [self._end(sequence, reason) for sequence, reason in found if sequence]

    def _enter(self, sequence: Sequence) -> Delta | None:
        self._scheduler.add(sequence)
        return self._leave(sequence, sequence.news()) if sequence.end else None

    def _take_deadlines(self) -> list[Delta]:
        now = self._clock()
        late = [
            sequence
            for sequence in self._scheduler.all()
            if sequence.work.deadline is not None and sequence.work.deadline <= now
        ]
        return [self._end(sequence, FinishReason.timeout) for sequence in late]

    def _hand_over(self) -> list[Delta]:
        return self._take_orders() + [
            self._end(sequence, FinishReason.handed_over) for sequence in self._scheduler.all()
        ]

    def _news(self, ran: Ran) -> Delta | None:
        """What a step made of a sequence; None if nothing is to be said yet."""
        sequence = ran.sequence
        self._prompt_tokens += ran.prompt
        if ran.error is not None:
            return self._fail(sequence, ran.error)
        delta = sequence.news()
        self._generated_tokens += len(delta.tokens)
        self._scheduler.served(sequence, max(0, len(delta.tokens) - 1))
        if delta.outcome:
            return self._leave(sequence, delta)
        return delta if delta.tokens else None

    def _fail(self, sequence: Sequence, error: Exception) -> Delta:
        log.error("work %s failed in the engine", sequence.work.id, exc_info=error)
        return self._end(sequence, FinishReason.failed, f"{type(error).__name__}: {error}")

    def _end(self, sequence: Sequence, reason: FinishReason, error: str = "") -> Delta:
        return self._leave(sequence, sequence.finish(reason, error))

    def _leave(self, sequence: Sequence, delta: Delta) -> Delta:
        self._cached_tokens += sequence.cached
        self._scheduler.remove(sequence, keep=sequence.end is not FinishReason.failed)
        with self._changed:
            self._held.discard(sequence.work.id)
            self._cancels.pop(sequence.work.id, None)
        return delta
