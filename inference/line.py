"""A place in line: accepted with all that is needed later, or refused because there is no room.

The script that decides is the last of an admission's; see `inference.admission`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings

from inference.bell import UNANSWERED_MS
from inference.jobs import KEPT_NOTHING_SECONDS, KEPT_SECONDS, SEALED, TOLD_MS, Job, Leaving
from kit.envelope import Ring
from kit.errors import Refused, Unavailable, spread
from kit.redis import Lua
from tenants.models import Retention

MOST_WAITING = 10_000
"""Waiting requests a model, whatever its pace; see `inference.pace`. As many patient ones."""
MOST_PATIENT = 2_500
"""Of them, of one organization: in background and in batches."""
MOST_UNBOOKED = 20_000
"""Sealed requests that wait for PostgreSQL; beyond them, admission refuses."""

_LUA = Path(__file__).parent / "lua"
_SUBMIT = Lua(_LUA / "submit.lua", behind=[_LUA / "lines.lua"])
_FULL_RETRY_SECONDS = 5.0
_REFUSED_AGAIN_SECONDS = 0.05
"""How long who found a line full is told so unasked."""
_MOST_REFUSED = 10_000
"""Of them are known to a process."""
_BOOKS_RETRY_SECONDS = 10.0


class QueueFull(Refused):
    """The model has more waiting requests than it may; nothing was charged."""

    status, code = 503, "queue_full"


class ShareFull(Refused):
    """The organization has as many requests waiting in the background as it may; nothing was
    charged."""

    status, code = 429, "background_full"


class BooksBehind(Refused):
    """What was delivered has not been booked for too long (PostgreSQL is away); nothing new."""

    status, code = 503, "books_behind"


class AlreadyIn(Exception):
    """The request got in before, under this id; `is_over`: it has ended since."""

    def __init__(self, *, is_over: bool) -> None:
        super().__init__()
        self.is_over = is_over


@dataclass(frozen=True, slots=True)
class Newcomer:
    """What decides whether a full line makes room: alike in all of it, alike refused."""

    model: str
    organization: int
    priority: int
    patient: bool


class Refusals:
    """Who found a line full is told so again for a moment, without asking Redis: of ten times what
    a model can do nine tenths are refused, by the very processors that it runs on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: dict[Newcomer, tuple[float, QueueFull]] = {}

    def note(self, newcomer: Newcomer, refusal: QueueFull) -> None:
        """It was refused just now."""
        if len(self._found) >= _MOST_REFUSED:
            self._found.clear()
        self._found[newcomer] = self._clock(), refusal

    def refuse_again(self, newcomer: Newcomer) -> None:
        """Raise `QueueFull` if it was refused a moment ago."""
        noted, refusal = self._found.get(newcomer, (0.0, None))
        if refusal is None:
            return
        if self._clock() - noted < _REFUSED_AGAIN_SECONDS:
            raise QueueFull(refusal.message, retry_after=refusal.retry_after)
        del self._found[newcomer]


def submit(
    pipe: Any,
    *,
    ticket: str,
    job: Job,
    ring: Ring,
    web: str,
    keep: int = KEPT_SECONDS,
    frame: bytes = b"",
    leaving: Leaving = Leaving.LINGER,
) -> None:
    """Queue the script that accepts the request; the web process `web` reads it, unless "".

    It is kept for `keep` seconds after its end, and so is its stream unless nothing is to be kept.
    With `Leaving.CONTINUE` it goes on whenever a reader leaves, whatever that reader says.
    `frame` is a stored response's, sealed, or b"": see `inference.responses`.
    """
    _SUBMIT.add(
        pipe,
        [ticket, f"job:{job.id}", f"queue:{job.model}", SEALED],
        [
            str(job.id),
            job.organization,
            job.model,
            job.priority,
            job.cost,
            web,
            job.dump(),
            MOST_WAITING,
            job.model_version,
            keep,
            min(keep, KEPT_NOTHING_SECONDS) if job.retention == Retention.NOTHING else keep,
            job.seal(ring),
            job.seal_messages(ring) if job.retention == Retention.TEXTS else b"",
            settings.BOOKS_BEHIND_SECONDS * 1000,
            MOST_UNBOOKED,
            settings.QUEUE_SECONDS * 2000,
            TOLD_MS,
            frame,
            round(job.timeout * 1000),
            MOST_PATIENT,
            UNANSWERED_MS,
            leaving.value,
            job.key,
        ],
    )


def submitted(reply: Sequence[Any]) -> bool:
    """Whether the workers are to be told, from the script's reply; it is not needed while an
    announcement is under way, since whoever gets that looks for all that waits.

    Raises `AlreadyIn`, `QueueFull`, `ShareFull` or `BooksBehind`, or `Unavailable` if the script
    did not act or the state Redis is short of memory.
    """
    refuse_twin(reply)
    if reply[0] == b"full":
        raise QueueFull(
            f"{int(reply[1]):,} requests wait for this model already; try again shortly.",
            retry_after=max(1.0, int(reply[2]) / 1000),
        )
    if reply[0] == b"share":
        raise ShareFull(
            f"{int(reply[1]):,} requests of this organization wait in the background for this "
            "model already, as many as may; send more as they are done.",
            retry_after=max(1.0, int(reply[2]) / 1000),
        )
    if reply[0] == b"memory":
        raise Unavailable(
            "The platform's state is nearly full; nothing new is taken until some of it is gone. "
            "Nothing was charged; try again later.",
            retry_after=spread(_FULL_RETRY_SECONDS),
        )
    if reply[0] == b"behind":
        raise BooksBehind(
            f"The platform's books are {int(reply[1]) // 1000} s behind; nothing new is taken "
            "until they catch up. Nothing was charged; try again later.",
            retry_after=_BOOKS_RETRY_SECONDS,
        )
    if reply[0] != b"ok":
        raise Unavailable("The request did not get in; nothing was charged. Try again.")
    return bool(reply[1])


def refuse_twin(reply: Sequence[Any]) -> None:
    """Raise `AlreadyIn` if the script's reply says so: whatever limits and credit say to the same
    admission is then of no account."""
    if reply[0] == b"twin":
        raise AlreadyIn(is_over=reply[1] == b"done")
