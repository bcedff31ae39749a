"""A batch's life: made, taken up by a worker, its lines read, carried out, written to files.

    validating → in_progress → finalizing → completed | expired
        ↓             ↓           ↑
      failed      cancelling → … → cancelled

Who works at a batch holds it by a lease; each step names the attempt that it belongs to, so that
one who lost the lease changes nothing. Only cancelling comes from outside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Case, DateTimeField, ExpressionWrapper, F, Q, Value, When
from django.db.models.functions import Least

from inference.batches import files
from inference.batches.models import Batch, BatchLine, StoredFile, line_place
from kit.errors import Refused
from kit.ids import request_id
from tenants import datakeys
from tenants.auth import Caller
from tenants.models import Retention

WINDOW = timedelta(hours=24)
"""What is not carried out by then is not carried out."""
MOST_OPEN = 50
"""Batches of one organization."""
LEASE = timedelta(seconds=15)
LONGEST_OF_NOTHING = timedelta(days=1)
"""How long results are there at most of an organization that keeps nothing."""
_PURGED_AT_ONCE = 100
State = Batch.State


class NoBatch(Refused):
    """No batch of this id, or another organization's."""

    status, code = 404, "batch_not_found"


class TooManyBatches(Refused):
    """So many are open that more have to wait."""

    status, code = 429, "too_many_batches"


class AlreadyEnded(Refused):
    """Nothing to cancel."""

    status, code = 409, "batch_ended"


@dataclass(frozen=True, slots=True)
class Asked:
    """A line as it was sent: the body of a request, and its caller's name for it."""

    custom_id: str
    body: bytes


def make(
    caller: Caller,
    *,
    endpoint: str,
    input_file: UUID | None,
    lines: Sequence[Asked],
    now: datetime,
    label: str = "",
    project: str = "",
    metadata: Mapping[str, str] | None = None,
    keeps_files_for: timedelta = files.LONGEST,
    identifier: UUID,
) -> Batch:
    """A batch of a file's lines, which a worker reads, or of these; the one that stands already
    under this id. Raises `TooManyBatches`."""
    mine = Batch.objects.for_org(caller.organization)
    if (made := mine.filter(pk=identifier).first()) is not None:
        return made
    open_ones = Batch.objects.for_org(caller.organization).filter(state__in=Batch.OPEN).count()
    if open_ones >= MOST_OPEN:
        raise TooManyBatches(
            f"{open_ones} batches are open already; wait until one has ended.", retry_after=30.0
        )
    with transaction.atomic():
        made, is_new = mine.get_or_create(
            pk=identifier,
            defaults={
                "organization_id": caller.organization,
                "key": caller.key,
                "label": label,
                "project": project,
                "endpoint": endpoint,
                "input_file": input_file,
                "keeps_files_for": int(keeps_files_for.total_seconds()),
                "metadata": metadata,
                "created_at": now,
                "expires_at": now + WINDOW,
            },
        )
        if lines and is_new:
            _add(made, lines, now)
            made.state, made.total, made.in_progress_at = State.IN_PROGRESS, len(lines), now
            made.save(update_fields=["state", "total", "in_progress_at"])
    return made


def one(organization: int, identifier: str) -> Batch:
    """By its id as callers have it, `batch_…`. Raises `NoBatch`."""
    found = None
    if (key := files.key_of(identifier, "batch_")) is not None:
        found = Batch.objects.for_org(organization).filter(pk=key).first()
    if found is None:
        raise NoBatch(f"There is no batch {identifier[:80]!r}; GET /v1/batches lists yours.")
    return found


def listed(organization: int, *, after: str | None, most: int) -> list[Batch]:
    """A page, the newest first, behind the batch `after`. Raises `NoBatch`."""
    rows = Batch.objects.for_org(organization)
    if after is not None:
        last = one(organization, after)
        rows = rows.filter(
            Q(created_at__lt=last.created_at) | Q(created_at=last.created_at, id__lt=last.pk)
        )
    return list(rows[:most])


def cancel(organization: int, identifier: str, *, now: datetime) -> Batch:
    """Begin to stop it; what is done stays done. Raises `NoBatch` or `AlreadyEnded`."""
    found = one(organization, identifier)
    rows = Batch.objects.for_org(organization).filter(pk=found.pk)
    stopped = rows.filter(state__in=(State.VALIDATING, State.IN_PROGRESS)).update(
        state=State.CANCELLING, cancelling_at=now
    )
    found = rows.get()
    if not stopped and found.state not in {State.CANCELLING, State.CANCELLED}:
        raise AlreadyEnded(f"The batch is {found.state} already.")
    return found


def claim(*, now: datetime) -> Batch | None:
    """The open batch that was worked at longest ago, leased; None if there is none."""
    rows = Batch.objects.across_organizations().filter(state__in=Batch.OPEN)
    free = rows.filter(Q(leased_until=None) | Q(leased_until__lte=now))
    for pk, attempt in free.order_by(
        F("leased_until").asc(nulls_first=True), "created_at"
    ).values_list("pk", "attempt")[:8]:
        leased = rows.filter(pk=pk, attempt=attempt).update(
            attempt=attempt + 1, leased_until=now + LEASE
        )
        if leased:
            return rows.select_related("organization").filter(pk=pk).first()
    return None


def renew(batch: Batch, *, now: datetime) -> str | None:
    """Go on with it; its state as it is now, None if it is another's."""
    if not _mine(batch).update(leased_until=now + LEASE):
        return None
    return str(_mine(batch).values_list("state", flat=True).get())


def release(batch: Batch, *, now: datetime) -> None:
    """Leave it for others; the next turn is that of who waited longest."""
    _mine(batch).update(leased_until=now)


def begin(batch: Batch, lines: Sequence[Asked], *, now: datetime) -> bool:
    """Its file was read: these are its lines. False if it is another's, or was cancelled."""
    with transaction.atomic():
        if (
            not _mine(batch)
            .filter(state=State.VALIDATING)
            .update(state=State.IN_PROGRESS, total=len(lines), in_progress_at=now)
        ):
            return False
        _add(batch, lines, now)
    return True


def waiting(batch: Batch, *, most: int, but: frozenset[UUID]) -> list[BatchLine]:
    """The next lines to be carried out, in their order."""
    rows = BatchLine.objects.filter(batch=batch, state=BatchLine.State.WAITING)
    return list(rows.exclude(request__in=but).order_by("number")[:most])


def note(batch: Batch, line: BatchLine, *, status: int, answer: bytes) -> None:
    """What came of a line, and no more what it asked; once, whoever repeats it."""
    is_done = status < 400
    ring = datakeys.ring(batch.organization_id)
    sealed = ring.seal(answer, line_place(batch.organization_id, "answered", line.request))
    with transaction.atomic():
        noted = BatchLine.objects.filter(pk=line.pk, state=BatchLine.State.WAITING).update(
            state=BatchLine.State.DONE if is_done else BatchLine.State.FAILED,
            status=status,
            answered=sealed,
            asked=b"",
        )
        if noted:
            column = "completed" if is_done else "failed"
            rows = Batch.objects.for_org(batch.organization_id).filter(pk=batch.pk)
            rows.update(**{column: F(column) + 1})


def results_kept_for(batch: Batch) -> timedelta:
    """How long what came of it is there after its end."""
    said = timedelta(seconds=batch.keeps_files_for)
    is_kept = batch.organization.retention != Retention.NOTHING
    return said if is_kept else min(said, LONGEST_OF_NOTHING)


def purge(*, now: datetime) -> int:
    """Forget those whose results are kept no more, with lines and files; how many."""
    said = F("keeps_files_for")
    longest = Value(int(LONGEST_OF_NOTHING.total_seconds()))
    is_nothing = When(organization__retention=Retention.NOTHING, then=Least(said, longest))
    until = F("ended_at") + Case(is_nothing, default=said) * Value(timedelta(seconds=1))
    due = (
        Batch.objects.across_organizations()
        .exclude(state__in=Batch.OPEN)
        .annotate(until=ExpressionWrapper(until, output_field=DateTimeField()))
        .filter(until__lte=now)
        .order_by()
    )
    purged = 0
    while found := list(due.values_list("pk", "output_file", "error_file")[:_PURGED_AT_ONCE]):
        written = {file for _, *files in found for file in files if file is not None}
        with transaction.atomic():
            StoredFile.objects.across_organizations().filter(pk__in=written).delete()
            Batch.objects.across_organizations().filter(pk__in=[pk for pk, *_ in found]).delete()
        purged += len(found)
    return purged


def _mine(batch: Batch) -> Any:
    rows = Batch.objects.for_org(batch.organization_id)
    return rows.filter(pk=batch.pk, attempt=batch.attempt)


def _add(batch: Batch, lines: Sequence[Asked], now: datetime) -> None:
    organization = batch.organization_id
    ring = datakeys.ring(organization)
    rows = []
    for number, line in enumerate(lines):
        request = request_id(now)
        asked = ring.seal(line.body, line_place(organization, "asked", request))
        rows.append(
            BatchLine(
                batch=batch,
                number=number,
                custom_id=line.custom_id,
                request=request,
                asked=asked,
            )
        )
    BatchLine.objects.bulk_create(rows, batch_size=1000)
