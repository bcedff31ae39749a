"""Telling the workers, through Celery, that a model has work. What to do, they claim from Redis.

Publishing to a broker blocks, so one thread a process does it, off the event loop. Should an
announcement be lost with its process, a worker's reaper announces the waiting request again.
"""

from queue import SimpleQueue
from threading import Lock, Thread

import structlog
from celery import current_app

RUN = "inference.run"
"""The task's name."""

log = structlog.get_logger()


class Announcer:
    """A thread that sends announcements in order."""

    def __init__(self) -> None:
        self._pending: SimpleQueue[tuple[str, str, str]] = SimpleQueue()
        self._start = Lock()
        self._thread: Thread | None = None

    def announce(self, *, model: str, queue: str, request: str = "") -> None:
        """Say, soon, that `model` has work; `request` is the task's id, to be found in logs."""
        self._pending.put((model, queue, request))
        if self._thread is None:
            with self._start:
                if self._thread is None:
                    self._thread = Thread(target=self._run, name="announcer", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        while True:
            model, queue, request = self._pending.get()
            try:
                current_app.send_task(
                    RUN,
                    kwargs={"model": model},
                    queue=queue,
                    task_id=request or None,
                    ignore_result=True,
                    retry=False,
                )
            except Exception as error:
                log.warning("an announcement failed; the reaper repeats it", error=str(error))


announce = Announcer().announce
