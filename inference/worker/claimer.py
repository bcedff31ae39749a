"""Claims what waits as soon as a full station has room again."""

from collections.abc import Callable
from threading import Event, Thread

import structlog

log = structlog.get_logger()


class Claimer:
    """A thread that calls `claim` when it is woken, once for however often that was meanwhile."""

    def __init__(self, name: str, claim: Callable[[], object]) -> None:
        self._name = name
        self._claim = claim
        self._woken = Event()
        self._stopped = False
        self._thread = Thread(target=self._run, name=f"claimer {name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """There is room."""
        self._woken.set()

    def stop(self) -> None:
        """End, after what it does now or some seconds."""
        self._stopped = True
        self._woken.set()
        self._thread.join(10)

    def _run(self) -> None:
        while self._woken.wait() and not self._stopped:
            self._woken.clear()
            try:
                self._claim()
            except Exception:
                log.exception("nothing could be claimed; an announcement will", model=self._name)
