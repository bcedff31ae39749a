"""Makes one entry of a long stream once it is whole: it is kept for an hour or a day, and a step's
entry takes several times the memory of what it says."""

from queue import Full, Queue
from threading import Thread

import structlog
from redis.exceptions import RedisError

from inference import stream
from inference.worker.held import Held
from kit.envelope import Unreadable

_MOST_WAITING = 1_000
"""What comes beyond them stays as it is."""

log = structlog.get_logger()


class Compactor:
    """A thread that takes requests which this worker has sealed."""

    def __init__(self, name: str) -> None:
        self._held: Queue[Held | None] = Queue(_MOST_WAITING)
        self._thread = Thread(target=self._run, name=f"compactor {name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End once those put before are done, or after some seconds."""
        try:
            self._held.put(None, timeout=1)
        except Full:
            return
        self._thread.join(10)

    def put(self, held: Held) -> None:
        """Compact its stream, soon."""
        if held.entries >= stream.LONG and held.cipher is not None:
            try:
                self._held.put_nowait(held)
            except Full:
                log.warning("a stream is not compacted: too many wait for it")

    def _run(self) -> None:
        while (held := self._held.get()) is not None:
            if held.cipher is None:
                continue
            try:
                stream.compact(held.claim.job.id, held.cipher)
            except (RedisError, Unreadable) as error:
                log.warning("a stream was not compacted", error=str(error))
            except Exception:
                log.exception("a stream was not compacted")
