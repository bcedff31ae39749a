"""Writes what an engine made to its requests' streams, from a thread beside the engine's.

A whole step goes out in one script call, so a slow Redis never stops decoding: steps that piled up
meanwhile go out together.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic, sleep

import structlog
from redis.exceptions import RedisError

from inference import metrics, stream
from inference.engine import Delta, FinishReason
from inference.worker.held import Held

_MOST_AT_ONCE = 512
"""Deltas in one script call."""
_CROWD, _GATHER_SECONDS = 16, 0.06
"""From how many streams in a step on the next are waited for, and within what time."""
_ENOUGH = 128
"""From how many deltas on a message's own cost is nothing beside theirs: no more are waited for."""

log = structlog.get_logger()


class Publisher:
    """Takes the steps of one engine; `note` hears what became of each delta of what is `held`."""

    def __init__(
        self, name: str, *, held: Mapping[str, Held], note: Callable[[Held, Delta, str], None]
    ) -> None:
        self._held = held
        self._note = note
        self._steps: SimpleQueue[Sequence[Delta] | None] = SimpleQueue()
        self._put_at = 0.0
        self._pace = _GATHER_SECONDS  # seconds between the last two steps
        self._thread = Thread(target=self._publish, name=f"publisher {name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def put(self, step: Sequence[Delta]) -> None:
        """Write it, soon."""
        now = monotonic()
        self._pace, self._put_at = now - self._put_at, now
        self._steps.put(step)

    def stop(self) -> None:
        """End once everything put before is written, or after some seconds."""
        self._steps.put(None)
        self._thread.join(10)

    def _publish(self) -> None:
        while (deltas := self._next_deltas()) is not None:
            step = []
            for delta in deltas:
                held = self._held.get(delta.id)
                if held is not None and not _given_up(delta):
                    held.note(delta)
                    step.append((held, held.merged(delta)))
            if step:
                for (held, delta), verdict in zip(step, self._write(step), strict=True):
                    self._note(held, delta, verdict)

    def _next_deltas(self) -> list[Delta] | None:
        """A step's, and those of what piled up; None at the end.

        A crowd's steps go out together as far as they follow within some milliseconds, since most
        of what a token costs on its way out is a cost of the message. First tokens and ends wait
        for nothing, and nothing waits for a step that would be too late.
        """
        first = self._steps.get()
        if first is None:
            return None
        steps, count = [first], len(first)
        until = monotonic() + (_GATHER_SECONDS if count >= _CROWD else 0)
        while count < _MOST_AT_ONCE:
            wait = until - monotonic()
            if wait < self._pace or count >= _ENOUGH or any(map(_urgent, steps[-1])):
                wait = 0
            try:
                more = self._steps.get(wait > 0, max(wait, 0) or None)
            except Empty:
                break
            if more is None:
                self._steps.put(None)
                break
            steps.append(more)
            count += len(more)
        return list(first) if len(steps) == 1 else _joined(chain.from_iterable(steps))

    def _write(self, step: list[tuple[Held, Delta]]) -> list[str]:
        rows = [(held.name, held.claim.attempt, delta, held.cipher) for held, delta in step]
        pause = 0.05
        while True:
            try:
                with metrics.PUBLISH_SECONDS.time():
                    return stream.append(rows)
            except RedisError as error:
                log.warning("a step could not be written; trying again", error=str(error))
                sleep(pause)
                pause = min(pause * 2, 2.0)


def _urgent(delta: Delta) -> bool:
    """A first token, or an end."""
    return delta.position == 0 or delta.outcome is not None


def _joined(deltas: Iterable[Delta]) -> list[Delta]:
    """What follows each other in one work, as one delta."""
    found: dict[str, Delta] = {}
    for delta in deltas:
        before = found.get(delta.id)
        if before is None:
            found[delta.id] = delta
        elif not _given_up(delta):
            found[delta.id] = before.then(delta)
    return list(found.values())


def _given_up(delta: Delta) -> bool:
    return delta.outcome is not None and delta.outcome.reason == FinishReason.handed_over
