"""Whether a model keeps failing: after some failures in a row it is taken for ill, for a while."""

import time
from collections.abc import Callable
from threading import Lock

FAILURES = 5
"""So many in a row, without one answer between them."""
SECONDS = 20.0
"""How long requests then go to the model's fall-back, before it is tried again."""


class Breaker:
    """Notes how answers end. Once ill, each further failure prolongs it; an answer cures it."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._failures = 0
        self._ill_until = float("-inf")

    def failed(self) -> None:
        """One more failure that was the model's."""
        with self._lock:
            self._failures += 1
            if self._failures >= FAILURES:
                self._ill_until = self._clock() + SECONDS

    def answered(self) -> None:
        """An answer came to its own end."""
        with self._lock:
            self._failures = 0
            self._ill_until = float("-inf")

    @property
    def is_open(self) -> bool:
        """Whether it keeps failing."""
        return self._clock() < self._ill_until
