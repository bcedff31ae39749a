"""Texts that lie sealed, opened with their owner's keys: in PostgreSQL and in Redis."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import orjson
from django.db import transaction
from django_tenants.utils import schema_context

from analytics import feedback
from benchmarks.canaries.client import NOBODYS
from benchmarks.canaries.platform import Tenant
from inference import responses, stream, texts
from inference.batches import files
from inference.batches.models import BatchLine, StoredFile, line_place
from inference.job import Job, asked_place
from inference.models import RequestFeedback, RequestText, StoredResponse
from kit.envelope import Place, Unreadable, sealed_under
from tenants import datakeys

Opened = tuple[str, str, bool]
"""What it is, its text, and whether its owner's canary must be in it."""


def in_postgres(tenant: Tenant) -> Iterator[Opened]:
    """Of an organization; what does not open raises `Unreadable`."""
    # In a transaction, or asking for a data key would give the connection back in the middle.
    with schema_context(tenant.schema), transaction.atomic():
        for text in RequestText.objects.iterator(chunk_size=500):
            kept = texts.opened(tenant.pk, text)
            yield _must("opened history.asked", orjson.dumps(list(kept.messages)).decode())
            yield "opened history.answered", "\n".join(kept.answers), False
        for response in StoredResponse.objects.exclude(frame=b"").iterator(chunk_size=500):
            frame, pieces = responses.opened(tenant.pk, response)
            yield _must("opened response.frame", orjson.dumps(frame).decode())
            said = "".join(each.text for each in pieces)
            yield "opened response.answered", said, False
        for row in RequestFeedback.objects.iterator(chunk_size=500):
            yield "opened feedback", feedback.comment_of(tenant.pk, row), True
        for line in BatchLine.objects.filter(batch__organization=tenant.pk).iterator(
            chunk_size=500
        ):
            for column, sealed in (("asked", line.asked), ("answered", line.answered)):
                if sealed:
                    place = line_place(tenant.pk, column, line.request)
                    said = unsealed(tenant.pk, bytes(sealed), place)
                    yield f"opened batch.{column}", said, column == "asked"
        for file in StoredFile.objects.for_org(tenant.pk).iterator(chunk_size=500):
            said = b"".join(files.content(file)).decode("utf-8", "replace")
            yield "opened files", said, file.purpose != StoredFile.Purpose.BATCH_OUTPUT


def in_job(tenant: Tenant, request: str, fields: dict[bytes, bytes]) -> Iterator[Opened]:
    """Of a job in Redis: what was asked, for the worker and for the history, and its frame."""
    if sealed := fields.get(b"sealed_prompt"):
        job = Job.load(fields[b"spec"], sealed)
        job = job.unsealed(datakeys.ring(tenant.pk, needs=job.sealed_under))
        said = bytes(token for token in job.prompt if token < 256).decode("utf-8", "replace")
        yield _must("opened jobs", said + orjson.dumps(job.messages).decode())
    if sealed := fields.get(b"asked"):
        place = asked_place(tenant.pk, UUID(request))
        yield _must("opened jobs' messages", unsealed(tenant.pk, sealed, place))
    if sealed := fields.get(b"frame"):
        place = Place(tenant.pk, "response.frame", request)
        yield _must("opened jobs' frames", unsealed(tenant.pk, sealed, place))


def in_stream(tenant: Tenant, request: str, entries: Any) -> Iterator[Opened]:
    """Of a stream in Redis, put together."""
    found = stream.entries(entries)
    if not found:
        return
    ring = datakeys.ring(tenant.pk, needs=stream.newest(found))
    events = stream.opened(found, ring.cipher(stream.place(tenant.pk, UUID(request))))
    yield "opened streams", "\n".join(stream.texts_of(events)), False


def in_cache(tenant: Tenant, entry: str, sealed: bytes) -> Iterator[Opened]:
    """An answer that is kept to be given again."""
    place = Place(tenant.pk, "cache.answer", entry)
    yield _must("opened cached answers", unsealed(tenant.pk, sealed, place))


def unsealed(organization: int, sealed: bytes, place: Place) -> str:
    """Raises `Unreadable`."""
    ring = datakeys.ring(organization, needs=sealed_under(sealed))
    return ring.unseal(sealed, place).decode("utf-8", "replace")


def _must(what: str, text: str) -> Opened:
    return what, text, NOBODYS not in text


__all__ = ["Opened", "Unreadable", "in_cache", "in_job", "in_postgres", "in_stream"]
