"""Dead letters: set aside when they are booked, replayed by operators, thrown away after a week."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from asgiref.sync import async_to_sync
from django.db import transaction

from billing.models import LedgerEntry
from inference.admission import admit_again
from inference.jobs import Job
from inference.letters.models import DeadLetter
from kit.errors import Refused
from kit.ids import request_id
from tenants import audit
from tenants.audit import Actor, Change
from tenants.models import Organization, Retention

KEPT_DAYS = 7


class NothingKept(Refused):
    """What was asked is not known any more."""

    status, code = 409, "nothing_kept"


class Shut(Refused):
    """Its organization is suspended, or to be erased."""

    status, code = 403, "organization_suspended"


@dataclass(frozen=True, slots=True)
class Dead:
    """A request to be set aside; `asked` is sealed."""

    job: Job
    asked: bytes
    cause: str
    attempts: int
    died_at: datetime


def set_aside(some: Iterable[Dead]) -> None:
    """Keep them, in the caller's transaction; those that stand already stay."""
    DeadLetter.objects.bulk_create(
        [
            DeadLetter(
                request=each.job.id,
                organization_id=each.job.organization,
                model=each.job.model,
                endpoint=each.job.endpoint,
                key=each.job.key,
                cause=each.cause[:500],
                attempts=each.attempts,
                died_at=each.died_at,
                job=each.job.dump(),
                asked=b"" if each.job.retention == Retention.NOTHING else each.asked,
            )
            for each in some
        ],
        ignore_conflicts=True,
    )


def replay(request: UUID, *, by: Actor, now: datetime) -> UUID:
    """Put it in line once more, with fresh attempts, at today's price; the id it runs under.

    However often this is called it runs once: the id is drawn the first time. Nobody waits for the
    answer, which its organization can read for a day. Raises `NothingKept`, `Shut`, and what
    `admit_again` raises.
    """
    letter = _drawn(request, by=by, now=now)
    assert letter.replay is not None  # noqa: S101  _drawn has set it
    mine = LedgerEntry.objects.for_org(letter.organization_id)
    if not mine.filter(pk=letter.replay).exists():
        job = Job.load(bytes(letter.job), bytes(letter.asked))
        async_to_sync(admit_again)(job, request=letter.replay)
    return letter.replay


def purge(*, now: datetime) -> int:
    """Throw away those older than a week; how many."""
    old = DeadLetter.objects.across_organizations().filter(
        died_at__lt=now - timedelta(days=KEPT_DAYS)
    )
    return old.delete()[0]


@transaction.atomic
def _drawn(request: UUID, *, by: Actor, now: datetime) -> DeadLetter:
    """The letter with the id of its replay, which is drawn once, and audited."""
    letter = DeadLetter.objects.across_organizations().select_for_update().get(pk=request)
    if not letter.asked:
        raise NothingKept(f"{request}: its organization keeps nothing of what it asks.")
    if Organization.objects.filter(pk=letter.organization_id, suspended_at=None).first() is None:
        raise Shut(f"{request}: its organization is suspended; nothing of it may run.")
    if letter.replay is None:
        letter.replay, letter.replayed_at = request_id(now), now
        letter.save(update_fields=["replay", "replayed_at"])
        change = Change("request.replayed", f"request:{request}", after={"as": str(letter.replay)})
        audit.record(change, by=by, organization=letter.organization_id, now=now)
    return letter
