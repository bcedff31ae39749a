"""What callers think of answers: one word each, changed as often as they like."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import IntegrityError, transaction
from django_tenants.utils import schema_context

from inference.models import RequestFeedback
from kit.envelope import Place, sealed_under
from kit.errors import Refused
from tenants import datakeys
from tenants.models import Organization, Retention

LONGEST = 2_000


class NoRequest(Refused):
    """Not in this organization's history."""

    status, code = 404, "request_not_found"


class NoTexts(Refused):
    """A comment is a text, and this organization wants none kept."""

    status, code = 409, "texts_not_kept"


@dataclass(frozen=True, slots=True)
class Feedback:
    """Good or bad, and why."""

    request_id: UUID
    rating: str
    comment: str
    given_by: str
    given_at: datetime


def give(
    organization: int, request: UUID, *, rating: str, comment: str, by: str, now: datetime
) -> Feedback:
    """Say it, instead of what was said before. Raises `NoRequest`, `NoTexts`."""
    row = Organization.objects.get(pk=organization)
    if comment and row.retention == Retention.NOTHING:
        raise NoTexts(
            "comment: this organization keeps no texts (GET /api/v1/retention); leave it out.",
            param="comment",
        )
    ring = datakeys.ring(organization)
    sealed = ring.seal(comment.encode(), place(organization, request)) if comment else b""
    said = {"rating": rating, "comment": sealed, "given_by": by, "given_at": now}
    with schema_context(row.schema_name):
        try:
            with transaction.atomic():
                RequestFeedback.objects.update_or_create(request_id=request, defaults=said)
                # The constraint speaks at the commit otherwise.
                RequestFeedback.objects.select_related("request").get(pk=request)
        except (IntegrityError, RequestFeedback.DoesNotExist):
            raise _none(request) from None
    return Feedback(request, rating, comment, by, now)


def given(organization: int, request: UUID) -> Feedback:
    """What was said. Raises `NoRequest`, also where nothing was."""
    schema = Organization.objects.values_list("schema_name", flat=True).get(pk=organization)
    with schema_context(schema):
        row = RequestFeedback.objects.filter(pk=request).first()
    if row is None:
        raise _none(request)
    return Feedback(
        row.request_id, row.rating, comment_of(organization, row), row.given_by, row.given_at
    )


def comment_of(organization: int, row: RequestFeedback) -> str:
    """In the clear. Raises `kit.envelope.Unreadable`."""
    sealed = bytes(row.comment)
    if not sealed:
        return ""
    ring = datakeys.ring(organization, needs=sealed_under(sealed))
    return ring.unseal(sealed, place(organization, row.request_id)).decode()


def place(organization: int, request: UUID) -> Place:
    """Where a comment belongs."""
    return Place(organization, "history.feedback", str(request))


def _none(request: UUID) -> NoRequest:
    return NoRequest(
        f"There is nothing of {request} in the history; GET /api/v1/requests lists requests, each "
        "a moment after its end."
    )
