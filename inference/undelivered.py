"""Answers that were booked, and lost with the state Redis before their reader had them.

Their rows in history and ledger stay as they are; what they cost is credited, once.
"""

from datetime import datetime, timedelta
from uuid import UUID

from billing import grants
from inference import history
from kit.errors import Refused, Unavailable, spread

_COME_BACK_SECONDS = 5.0
_CLOCKS_DIFFER = timedelta(minutes=1)
"""Redis says when an answer goes, by its own clock: at the very end none counts as lost early."""


class Lost(Unavailable):
    """The request's state, or part of it, is gone (Redis lost its data); the message says whether
    it failed, and costs nothing, or goes on."""

    code = "request_lost"

    def __init__(self, message: str) -> None:
        # Whatever lost it has lost others' too.
        super().__init__(message, retry_after=spread(_COME_BACK_SECONDS))


class NotKeptAnyMore(Refused):
    """The answer ended, was booked, and is not kept any more."""

    status, code = 410, "answer_not_kept"


def made_good(
    *, organization: int, request: UUID, heard: int, now: datetime
) -> Lost | NotKeptAnyMore:
    """What a reader is told that the state Redis forgot a request under; it has `heard` so many
    tokens. If more were booked, what the request cost is credited first."""
    booked = history.booked(organization, request)
    if booked is None or booked.state == "failed":
        return Lost("The request's state was lost; nothing was charged. Please send it again.")
    said = f"The request {request} ended and was booked, but its end was lost with our state. "
    if booked.completion_tokens <= heard:
        return NotKeptAnyMore(said + "What came of it was all; it is not to be sent again.")
    credit(organization, request, booked.amount, now=now)
    return NotKeptAnyMore(said + "What it cost was credited. Please send it again.")


def lost_early(*, organization: int, request: UUID, now: datetime) -> NotKeptAnyMore | None:
    """What is told whoever asks for an answer that the state Redis does not know, if it was to be
    kept until later: then what it cost is credited. None if it was not, or never was."""
    booked = history.booked(organization, request)
    if booked is None:
        return None
    if now - booked.finished_at > timedelta(seconds=booked.kept_seconds) - _CLOCKS_DIFFER:
        return None
    credit(organization, request, booked.amount, now=now)
    return NotKeptAnyMore(
        f"The answer of the request {request} was lost with our state, sooner than it was to go. "
        "Whatever it cost was credited. Please send it again."
    )


def reference(request: UUID) -> str:
    """By which the grant of a request is known."""
    return f"undelivered:{request}"


def credit(organization: int, request: UUID, amount: int, *, now: datetime) -> None:
    """Give back what a request cost whose answer nobody can read any more; once."""
    if amount > 0:
        grants.give(
            organization=organization,
            amount=amount,
            reason=f"The answer of {request} was lost before it was read",
            now=now,
            reference=reference(request),
        )
