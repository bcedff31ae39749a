"""What a batch came to: its lines' answers, written to files once, or read one by one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from django.db import transaction

from inference.batches import files
from inference.batches.batch import results_kept_for
from inference.batches.models import Batch, BatchLine, StoredFile, line_place
from kit.envelope import sealed_under
from tenants import datakeys
from tenants.webhooks import events
from tenants.webhooks.events import Happened, Kind

State = Batch.State
_NOT_DONE = {
    State.FAILED: ("batch_failed", "The batch failed before this line's turn came."),
    State.EXPIRED: ("batch_expired", "The batch's time was over before this line's turn came."),
    State.CANCELLED: ("batch_cancelled", "The batch was cancelled before this line's turn came."),
}


@dataclass(frozen=True, slots=True)
class Result:
    """A line, and what came of it: an HTTP status and a body; neither before its turn."""

    number: int
    custom_id: str
    request: UUID
    status: int | None
    body: Any


def finalize(
    batch: Batch, outcome: str, *, now: datetime, errors: Sequence[Mapping[str, Any]] = ()
) -> bool:
    """Write the files of a batch that has no more to do, and end it; False if it is another's.

    All or nothing, so whoever repeats it writes them once. The lines go with it: their answers are
    in the files. Batches that came without a file write none, and keep their lines, but what the
    last of them asked, until `batch.purge`.
    """
    with transaction.atomic():
        rows = Batch.objects.for_org(batch.organization_id).select_for_update()
        found = rows.filter(pk=batch.pk, attempt=batch.attempt, state__in=Batch.OPEN).first()
        if found is None:
            return False
        found.state, found.ended_at = outcome, now
        found.finalizing_at = found.finalizing_at or now
        found.leased_until, found.errors = None, list(errors)
        if found.input_file is not None:
            found.output_file = _file(found, "output", _outputs(found), now)
            found.error_file = _file(found, "errors", _errors(found, outcome), now)
            BatchLine.objects.filter(batch=found).delete()
        else:
            BatchLine.objects.filter(batch=found, state=BatchLine.State.WAITING).update(asked=b"")
        found.save()
        ended = {
            "batch": f"batch_{found.pk.hex}",
            "status": found.state,
            "total": found.total,
            "completed": found.completed,
            "failed": found.failed,
        }
        subject = str(found.pk)
        happened = Happened(found.organization_id, Kind.BATCH_FINISHED, subject, ended)
        events.tell([happened], now=now)
    return True


def read(batch: Batch, *, after: int, most: int) -> list[Result]:
    """A page of results, by their number."""
    rows = BatchLine.objects.filter(batch=batch, number__gt=after).order_by("number")[:most]
    return [_result(batch, row) for row in rows]


def _outputs(batch: Batch) -> Iterator[bytes]:
    for line in _of(batch, BatchLine.State.DONE):
        yield _line(_result(batch, line))


def _errors(batch: Batch, outcome: str) -> Iterator[bytes]:
    for line in _of(batch, BatchLine.State.FAILED):
        yield _line(_result(batch, line))
    if outcome in _NOT_DONE:
        code, message = _NOT_DONE[State(outcome)]
        for line in _of(batch, BatchLine.State.WAITING):
            error = {"code": code, "message": message}
            yield _line(_result(batch, line), error)


def _of(batch: Batch, state: str) -> Iterator[BatchLine]:
    rows = BatchLine.objects.filter(batch=batch, state=state).order_by("number")
    return rows.iterator(chunk_size=200)


def _result(batch: Batch, line: BatchLine) -> Result:
    body = None
    if line.answered is not None:
        sealed = bytes(line.answered)
        ring = datakeys.ring(batch.organization_id, needs=sealed_under(sealed))
        place = line_place(batch.organization_id, "answered", line.request)
        body = orjson.loads(ring.unseal(sealed, place))
    return Result(line.number, line.custom_id, line.request, line.status, body)


def _line(result: Result, error: Any = None) -> bytes:
    """As OpenAI's output files have them."""
    response = {
        "status_code": result.status,
        "request_id": str(result.request),
        "body": result.body,
    }
    return (
        orjson.dumps(
            {
                "id": f"batch_req_{result.request.hex}",
                "custom_id": result.custom_id,
                "response": None if result.status is None else response,
                "error": error,
            }
        )
        + b"\n"
    )


def _file(batch: Batch, what: str, content: Iterator[bytes], now: datetime) -> UUID | None:
    """Kept, unless it would be empty."""
    first = next(content, None)
    if first is None:
        return None

    def whole() -> Iterator[bytes]:
        yield first
        yield from content

    kept = files.keep(
        batch.organization_id,
        name=f"batch_{batch.pk.hex}_{what}.jsonl",
        purpose=StoredFile.Purpose.BATCH_OUTPUT,
        content=whole(),
        now=now,
        kept_for=results_kept_for(batch),
    )
    return kept.pk
