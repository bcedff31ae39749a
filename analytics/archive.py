"""The archive of an organization: a zip of JSON lines, a file a table, its files as they are, and a
manifest of checksums.

What is in it is found by looking: every table of the organization's schema, and every public table
whose rows are the organization's (`tenants.owned`). Sealed texts are opened; secrets (hashes of
keys and tokens, data keys, what webhooks are signed with) stay out.
"""

import base64
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, BinaryIO

import orjson
from django.apps import apps
from django.conf import settings
from django.db import models
from django_tenants.utils import schema_context

from analytics import feedback
from inference import responses, texts
from inference.batches import files
from inference.batches.models import BatchLine, FileFrame, StoredFile, line_place
from inference.jobs import Job
from inference.letters.models import DeadLetter
from inference.models import RequestFeedback, RequestText, StoredResponse
from inference.stream import texts_of
from kit.envelope import Place, Unreadable, sealed_under
from kit.paging import paged
from tenants import datakeys, owned
from tenants.models import DataKey, Membership, Organization
from tenants.owned import Table

_SECRET = frozenset(
    {"secret_hash", "password", "token", "token_hash", "client_secret", "secret", "previous_secret"}
)
LEFT_OUT: tuple[type[models.Model], ...] = (DataKey, FileFrame)
"""Data keys are secret; what the frames of files hold is in the archive's `files/`."""
_CHUNK = 1000


@dataclass(frozen=True, slots=True)
class File:
    """One file of an archive."""

    name: str
    rows: int
    bytes: int
    sha256: str


def write(organization: Organization, out: BinaryIO, *, now: datetime) -> list[File]:
    """Write the archive to `out`, which need not be seekable; its files."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        written = [
            _add(archive, f"{name}.jsonl", map(_line, rows))
            for name, rows in sorted(_tables(organization))
        ]
        for stored in paged(StoredFile.objects.for_org(organization), size=_CHUNK):
            written.append(_add(archive, f"files/file-{stored.pk.hex}", _content(stored)))
        manifest = {
            "organization": {"id": organization.pk, "slug": organization.slug},
            "written_at": now.astimezone(UTC).isoformat(timespec="microseconds"),
            "files": [
                {"name": each.name, "rows": each.rows, "bytes": each.bytes, "sha256": each.sha256}
                for each in written
            ],
        }
        archive.writestr("manifest.json", orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    return written


def _add(archive: zipfile.ZipFile, name: str, parts: Iterable[bytes]) -> File:
    """Its rows are its lines."""
    count, size, digest = 0, 0, sha256()
    with archive.open(name, "w", force_zip64=True) as file:
        for part in parts:
            file.write(part)
            digest.update(part)
            count, size = count + part.count(b"\n"), size + len(part)
    return File(name, count, size, digest.hexdigest())


def _line(row: dict[str, Any]) -> bytes:
    return orjson.dumps(row, default=_plain) + b"\n"


def _content(stored: StoredFile) -> Iterator[bytes]:
    try:
        yield from files.content(stored)
    except Unreadable as error:
        yield f"\nThe rest cannot be read any more: {error}\n".encode()


def _tables(organization: Organization) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    yield "organization", iter([_fields(organization)])
    for table in owned.tables():
        if table.model not in LEFT_OUT:
            yield f"account/{table.label.replace('.', '_')}", _owned(organization, table)
    for model in apps.get_models():
        if model._meta.app_config.name in settings.TENANT_APPS:
            label = model._meta.label_lower.replace(".", "_")
            yield f"data/{label}", _inside(organization, model)


def _owned(organization: Organization, table: Table) -> Iterator[dict[str, Any]]:
    for row in paged(table.rows(organization.pk), size=_CHUNK):
        match row:
            case Membership():
                yield {**_fields(row), "email": row.user.email}
            case BatchLine():
                yield _batch_line(organization, row)
            case DeadLetter():
                yield _letter(organization, row)
            case _:
                yield _fields(row)


def _inside(organization: Organization, model: type[models.Model]) -> Iterator[dict[str, Any]]:
    """Rows of the organization's schema, in pages: no transaction is held open meanwhile."""
    last = None
    while True:
        with schema_context(organization.schema_name):
            rows = model._base_manager.order_by("pk")
            rows = rows if last is None else rows.filter(pk__gt=last)
            found = list(rows[:_CHUNK])
        for row in found:
            match row:
                case RequestText():
                    yield _opened(organization, row)
                case RequestFeedback():
                    yield {**_fields(row), "comment": _comment(organization, row)}
                case StoredResponse():
                    yield _response(organization, row)
                case _:
                    yield _fields(row)
        if len(found) < _CHUNK:
            return
        last = found[-1].pk


def _opened(organization: Organization, row: RequestText) -> dict[str, Any]:
    try:
        found = texts.opened(organization.pk, row)
    except Unreadable as error:
        return {"request": row.request, "error": str(error)}
    return {
        "request": row.request,
        "messages": found.messages,
        "answers": found.answers,
        "finished_at": found.finished_at,
    }


def _comment(organization: Organization, row: RequestFeedback) -> str:
    try:
        return feedback.comment_of(organization.pk, row)
    except Unreadable as error:
        return str(error)


def _response(organization: Organization, row: StoredResponse) -> dict[str, Any]:
    found: dict[str, Any] = {"request": row.request, "finished_at": row.finished_at}
    if not row.frame:
        return found | {"deleted": True}
    try:
        frame, pieces = responses.opened(organization.pk, row)
    except Unreadable as error:
        return found | {"error": str(error)}
    return found | {**frame, "answer": texts_of(pieces)[0]}


def _batch_line(organization: Organization, row: BatchLine) -> dict[str, Any]:
    fields = _fields(row)
    for column in ("asked", "answered"):
        sealed, fields[column] = bytes(fields[column] or b""), None
        if sealed:
            place = line_place(organization.pk, column, row.request)
            fields[column] = _json(organization, sealed, place)
    return fields


def _json(organization: Organization, sealed: bytes, place: Place) -> Any:
    try:
        ring = datakeys.ring(organization.pk, needs=sealed_under(sealed))
        return orjson.loads(ring.unseal(sealed, place))
    except Unreadable as error:
        return {"error": str(error)}


def _letter(organization: Organization, row: DeadLetter) -> dict[str, Any]:
    job = Job.load(bytes(row.job), bytes(row.asked))
    fields = _fields(row) | {"job": orjson.loads(bytes(row.job)), "asked": None}
    if row.asked:
        try:
            ring = datakeys.ring(organization.pk, needs=job.sealed_under)
            found = job.unsealed(ring)
            fields["asked"] = {"messages": found.messages, "prompt": found.prompt}
        except Unreadable as error:
            fields["asked"] = {"error": str(error)}
    return fields


def _fields(row: models.Model) -> dict[str, Any]:
    return {
        field.attname: getattr(row, field.attname)
        for field in row._meta.concrete_fields
        if field.name not in _SECRET
    }


def _plain(value: Any) -> Any:
    match value:
        case bytes() | memoryview():
            return base64.b64encode(bytes(value)).decode()
        case set() | frozenset():
            return sorted(value)
    return str(value)
