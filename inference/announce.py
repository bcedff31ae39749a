"""Telling the workers, through Celery, that a model has work. What to do, they claim from Redis.

A broker's message costs more than a claim, so a model has one under way at a time (`line.submit`,
`jobs.to_be_told`): whoever gets it looks for all that waits. Workers that have the model loaded
hear its bell and need none (`inference.bell`). Publishing to a broker blocks, so one
thread a process does it, off the event loop. Should an announcement be lost with its process, a
worker's watch announces again.
"""

from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock, Thread

import structlog
from celery import current_app

RUN = "inference.run"
"""The task's name."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Announcement:
    """Requests wait for a model; `passed` full workers have passed it on.

    `request` is the id of the one that caused it, if one did: it becomes the task's, to be found
    in logs.
    """

    model: str
    queue: str
    passed: int = 0
    request: str = ""


class Announcer:
    """A thread that sends announcements in order."""

    def __init__(self) -> None:
        self._pending: SimpleQueue[Announcement] = SimpleQueue()
        self._start = Lock()
        self._thread: Thread | None = None

    def announce(self, work: Announcement) -> None:
        """Say it, soon."""
        self._pending.put(work)
        if self._thread is None:
            with self._start:
                if self._thread is None:
                    self._thread = Thread(target=self._run, name="announcer", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        while True:
            work = self._pending.get()
            try:
                _send(work)
            except Exception as error:
                log.warning("an announcement failed; it is repeated later", error=str(error))


def _send(work: Announcement) -> None:
    current_app.send_task(
        RUN,
        kwargs={"model": work.model, "passed": work.passed},
        queue=work.queue,
        task_id=work.request or None,
        ignore_result=True,
        retry=False,
    )


announce = Announcer().announce
