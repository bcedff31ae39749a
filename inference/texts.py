"""Prompts and answers in the history: sealed, kept for as many days as the organization says."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import structlog
from django_tenants.utils import schema_context
from psycopg import sql
from redis.exceptions import RedisError

from inference import stream, words
from inference.jobs import Job, asked_place
from inference.models import RequestText
from kit.envelope import Place, Unreadable, sealed_under
from kit.keepers import KeeperFailed
from kit.prepared import execute
from tenants import datakeys
from tenants.models import Organization, Retention

PURGED_AT_ONCE = 1000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Texts:
    """Of one request: `messages` as they were sent, and the answers, of which there may be many."""

    request: UUID
    messages: Sequence[Mapping[str, Any]]
    answers: Sequence[str]
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class SealedTexts:
    """As the history keeps them."""

    request: UUID
    asked: bytes
    answered: bytes
    finished_at: datetime
    words: list[bytes] | None = None
    """Their marks, where the organization wants to search."""


def searched(organizations: Iterable[int]) -> set[int]:
    """Those of them that want to find texts by their words."""
    if not (some := set(organizations)):
        return set()
    rows = Organization.objects.filter(pk__in=some, texts_searchable=True)
    return set(rows.values_list("pk", flat=True))


def gather(
    job: Job, *, asked: bytes, finished_at: datetime, searched: bool = False
) -> SealedTexts | None:
    """A sealed request's texts, from its stream; None where they are not wanted or not to be had.

    A data key out of reach does not stop the booking: the texts are then not kept.
    """
    if job.retention != Retention.TEXTS or not asked:
        return None
    try:
        answers = stream.texts_of(stream.read(job.organization, job.id))
        ring = datakeys.ring(job.organization, needs=sealed_under(asked))
        messages = ring.unseal(asked, asked_place(job.organization, job.id)) if searched else b""
    except (Unreadable, KeeperFailed, RedisError) as error:
        log.error("texts are not kept", request=str(job.id), error=str(error))
        return None
    answered = ring.seal(orjson.dumps(answers), answered_place(job.organization, job.id))
    found = words.marked(ring, job.organization, messages, answers) if searched else None
    return SealedTexts(job.id, asked, answered, finished_at, found)


def write(rows: Iterable[tuple[str, SealedTexts]]) -> None:
    """Insert (schema, texts) pairs; those that stand already stay."""
    for schema, row in rows:
        table = sql.Identifier(schema, "inference_requesttext")
        execute(
            sql.SQL(
                "INSERT INTO {} (request, asked, answered, finished_at, words)"
                " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (request) DO NOTHING"
            ).format(table),
            [row.request, row.asked, row.answered, row.finished_at, row.words],
        )


def read(organization: int, request: UUID) -> Texts | None:
    """A request's texts, if they are kept. Raises `Unreadable` where its data key is gone."""
    with schema_context(Organization.objects.get(pk=organization).schema_name):
        row = RequestText.objects.filter(pk=request).first()
    return None if row is None else opened(organization, row)


def opened(organization: int, row: RequestText) -> Texts:
    """A row's texts. Raises `Unreadable`."""
    asked, answered = bytes(row.asked), bytes(row.answered)
    ring = datakeys.ring(organization, needs=max(map(sealed_under, (asked, answered))))
    messages = ring.unseal(asked, asked_place(organization, row.request))
    answers = ring.unseal(answered, answered_place(organization, row.request))
    return Texts(row.request, orjson.loads(messages), orjson.loads(answers), row.finished_at)


def purge(organization: Organization, *, now: datetime) -> int:
    """Delete texts older than the organization keeps them, all where it keeps none; how many.

    Marks of words go where it does not search any more. In batches, each a transaction of its own;
    it may be stopped and run again. The figures stay.
    """
    keeps = organization.retention == Retention.TEXTS
    border = now - timedelta(days=organization.kept_days) if keeps else now
    purged = 0
    with schema_context(organization.schema_name):
        if not organization.texts_searchable:
            RequestText.objects.filter(words__isnull=False).update(words=None)
        while True:
            due = RequestText.objects.filter(finished_at__lt=border).order_by("finished_at")
            some = due.values_list("pk", flat=True)[:PURGED_AT_ONCE]
            count, _ = RequestText.objects.filter(pk__in=list(some)).delete()
            purged += count
            if count < PURGED_AT_ONCE:
                return purged


def answered_place(organization: int, request: UUID) -> Place:
    """Where the answers of a request belong in the history."""
    return Place(organization, "history.answered", str(request))
