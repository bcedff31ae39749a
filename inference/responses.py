"""Responses that are kept: how each was asked for, and the pieces of its answer.

A response is a request like any other. While it runs, and for a while after, its frame lies beside
its job in Redis and its pieces in its stream; the transaction that books it writes both, sealed, to
the organization's schema.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import orjson
import structlog
from django_tenants.utils import schema_context
from psycopg import sql
from redis.exceptions import RedisError

from inference import jobs, stream
from inference.jobs import Job
from inference.live import so_far
from inference.models import Request, StoredResponse
from inference.stream import Ended, Piece
from inference.texts import PURGED_AT_ONCE
from kit.envelope import Place, Ring, Unreadable, sealed_under
from kit.errors import Refused
from kit.keepers import KeeperFailed
from kit.prepared import execute
from kit.redis import async_state
from kit.threads import in_thread
from tenants import answers, datakeys
from tenants.models import Organization, Retention

KEPT_DAYS = 30
"""How long, where the organization does not keep its texts for another time."""

log = structlog.get_logger()


class NoResponse(Refused):
    """No response of this name, or it is another organization's, or kept no more."""

    status, code = 404, "response_not_found"

    @classmethod
    def of(cls, name: str, *, param: str | None = None) -> "NoResponse":
        """For a response that this organization cannot read."""
        return cls(
            f"There is no response {name[:80]!r}: it was not stored, was deleted, or is kept no "
            "more.",
            param=param,
        )


@dataclass(frozen=True, slots=True)
class Found:
    """A response: its frame, what there is of its answer, and how that ended if it did."""

    request: UUID
    model: str
    key: str
    """The API key that sent it."""
    frame: Mapping[str, Any]
    pieces: Sequence[Piece]
    waits: bool = False
    """Whether no worker has it yet."""
    ended: Ended | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SealedResponse:
    """As the organization's schema keeps it."""

    request: UUID
    frame: bytes
    answered: bytes
    finished_at: datetime
    answer: str = ""
    """What a cache finds its answer by, where one may."""


def sealed(
    frame: Mapping[str, Any] | None, ring: Ring, *, organization: int, request: UUID
) -> bytes:
    """A frame as it lies beside its job; b"" where there is none."""
    if frame is None:
        return b""
    return ring.seal(orjson.dumps(frame), _framed(organization, request))


def gather(
    job: Job, *, frame: bytes, finished_at: datetime, answer: str = ""
) -> SealedResponse | None:
    """A sealed request's response, from its stream; None if it is none, or not to be had.

    A data key out of reach does not stop the booking: the response is then not kept.
    """
    if not frame:
        return None
    try:
        pieces = [each for each in stream.read(job.organization, job.id) if isinstance(each, Piece)]
        ring = datakeys.ring(job.organization)
    except (Unreadable, KeeperFailed, RedisError) as error:
        log.error("a response is not kept", request=str(job.id), error=str(error))
        return None
    answered = ring.seal(stream.packed(pieces), _answered(job.organization, job.id))
    return SealedResponse(job.id, frame, answered, finished_at, answer)


def write(rows: Iterable[tuple[str, SealedResponse]]) -> None:
    """Insert (schema, response) pairs; those that stand already, or were deleted, stay so."""
    for schema, row in rows:
        execute(
            sql.SQL(
                "INSERT INTO {} (request, frame, answered, finished_at, answer)"
                " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (request) DO NOTHING"
            ).format(sql.Identifier(schema, "inference_storedresponse")),
            [row.request, row.frame, row.answered, row.finished_at, row.answer],
        )


async def find(*, organization: int, request: UUID) -> Found | None:
    """A response of this organization, running or kept; None if there is none."""
    names = ["org", "state", "model", "frame", "sealed", "key"]
    found = cast("list[bytes | None]", await async_state().hmget(f"job:{request}", names))
    owner, state, model, frame, sealed_at, key = found
    if frame is None or owner != str(organization).encode():
        return await in_thread(_kept, organization, request)
    ring = await datakeys.aring(organization, needs=sealed_under(frame))
    events = await so_far(organization=organization, request=request)
    ended = events[-1] if events and isinstance(events[-1], Ended) else None
    if ended is None and state == b"done":
        return await in_thread(_kept, organization, request)
    return Found(
        request=request,
        model=(model or b"").decode(),
        key=(key or b"").decode(),
        frame=orjson.loads(ring.unseal(frame, _framed(organization, request))),
        pieces=[each for each in events if isinstance(each, Piece)],
        waits=state == b"waiting",
        ended=ended,
        ended_at=_moment(sealed_at),
    )


async def ended_at(request: UUID) -> datetime | None:
    """When a request that Redis still has was sealed."""
    found = cast("bytes | None", await async_state().hget(f"job:{request}", "sealed"))
    return _moment(found)


async def erase(*, organization: int, request: UUID, now: datetime) -> None:
    """Forget what was asked and answered, for good, a cache's copy first; the figures stay."""
    _, answer = await jobs.found_in(request=request)
    await in_thread(_forget_cached, organization, request, answer)
    await async_state().hdel(f"job:{request}", "frame")
    await in_thread(_erase, organization, request, now)


def purge(organization: Organization, *, now: datetime) -> int:
    """Delete responses older than the organization keeps them; how many."""
    days = {Retention.NOTHING: 0, Retention.TEXTS: organization.kept_days}
    border = now - timedelta(days=days.get(Retention(organization.retention), KEPT_DAYS))
    purged = 0
    with schema_context(organization.schema_name):
        while True:
            due = StoredResponse.objects.filter(finished_at__lt=border).order_by("finished_at")
            some = list(due.values_list("pk", flat=True)[:PURGED_AT_ONCE])
            count, _ = StoredResponse.objects.filter(pk__in=some).delete()
            purged += count
            if count < PURGED_AT_ONCE:
                return purged


def opened(organization: int, row: StoredResponse) -> tuple[Mapping[str, Any], list[Piece]]:
    """A row's frame, and the pieces of its answer. Raises `Unreadable`."""
    frame, answered = bytes(row.frame), bytes(row.answered)
    ring = datakeys.ring(organization, needs=max(map(sealed_under, (frame, answered))))
    return (
        orjson.loads(ring.unseal(frame, _framed(organization, row.request))),
        stream.unpacked(ring.unseal(answered, _answered(organization, row.request))),
    )


def _kept(organization: int, request: UUID) -> Found | None:
    with schema_context(Organization.objects.get(pk=organization).schema_name):
        row = StoredResponse.objects.filter(pk=request).first()
        figures = Request.objects.filter(pk=request).first()
    if row is None or figures is None or not row.frame:
        return None
    frame, pieces = opened(organization, row)
    return Found(
        request=request,
        model=figures.model,
        key=figures.key,
        frame=frame,
        pieces=pieces,
        ended=Ended(
            entry="",
            reason=figures.reason,
            prompt_tokens=figures.prompt_tokens,
            cached_tokens=figures.cached_tokens,
            completion_tokens=figures.completion_tokens,
            amount=figures.amount,
            currency=figures.currency,
            error=figures.error,
        ),
        ended_at=figures.finished_at,
    )


def _forget_cached(organization: int, request: UUID, answer: str) -> None:
    """`answer` is what Redis has of it; the row has it for longer."""
    with schema_context(Organization.objects.get(pk=organization).schema_name):
        row = StoredResponse.objects.filter(pk=request).first()
    entry = answer or (row.answer if row is not None else "")
    if entry:
        answers.forget(organization, entry)


def _erase(organization: int, request: UUID, now: datetime) -> None:
    """An empty row stays for as long as the response would have: should it be booked only now, it
    is not written any more."""
    with schema_context(Organization.objects.get(pk=organization).schema_name):
        StoredResponse.objects.bulk_create(
            [StoredResponse(request=request, frame=b"", answered=b"", finished_at=now)],
            update_conflicts=True,
            unique_fields=["request"],
            update_fields=["frame", "answered", "finished_at", "answer"],
        )


def _moment(milliseconds: bytes | None) -> datetime | None:
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC) if milliseconds else None


def _framed(organization: int, request: UUID) -> Place:
    """Where a frame belongs."""
    return Place(organization, "response.frame", str(request))


def _answered(organization: int, request: UUID) -> Place:
    """Where the pieces of a response belong."""
    return Place(organization, "response.answered", str(request))
