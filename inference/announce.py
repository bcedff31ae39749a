"""Telling the workers, through Celery, that a model has work. What to do, they claim from Redis.

Publishing to a broker blocks, so one thread a process does it, off the event loop. What gathers
while it does goes out together, a few requests an announcement: a broker's message costs more than
a claim, yet a crowd is to be spread over the workers. Should an announcement be lost with its
process, a worker's watch announces the waiting request again.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Lock, Thread

import structlog
from celery import current_app

RUN = "inference.run"
"""The task's name."""
_TOGETHER = 4
"""The most requests in one announcement."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Announcement:
    """Requests that wait for a model; `passed` full workers have handed the announcement on.

    `request` is one request's id, if it is one: it becomes the task's, to be found in logs.
    """

    model: str
    queue: str
    count: int = 1
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
            found = [self._pending.get()]
            try:
                while True:
                    found.append(self._pending.get_nowait())
            except Empty:
                pass
            for one in gathered(found):
                try:
                    _send(one)
                except Exception as error:
                    log.warning("an announcement failed; it is repeated later", error=str(error))


def gathered(found: list[Announcement]) -> Iterator[Announcement]:
    """The same requests in fewer announcements."""
    if len(found) == 1 and found[0].count <= _TOGETHER:
        yield found[0]
        return
    counts = Counter[tuple[str, str, int]]()
    for work in found:
        counts[work.model, work.queue, work.passed] += work.count
    for (model, queue, passed), left in counts.items():
        for done in range(0, left, _TOGETHER):
            yield Announcement(model, queue, count=min(_TOGETHER, left - done), passed=passed)


def _send(work: Announcement) -> None:
    current_app.send_task(
        RUN,
        kwargs={"model": work.model, "count": work.count, "passed": work.passed},
        queue=work.queue,
        task_id=work.request or None,
        ignore_result=True,
        retry=False,
    )


announce = Announcer().announce
