"""The archive of an organization: a zip of JSON lines, a file a table, and a manifest of checksums.

What is in it is found by looking: every table of the organization's schema, and every public table
whose rows name the organization. Sealed texts are opened; secrets (key hashes, data keys) stay out.
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
from inference.models import RequestFeedback, RequestText, StoredResponse
from inference.stream import texts_of
from kit.envelope import Unreadable
from tenants.models import DataKey, Membership, Organization

_SECRET = frozenset({"secret_hash", "password", "token"})
_LEFT_OUT: tuple[type[models.Model], ...] = (DataKey,)
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
        files = [
            _add(archive, f"{name}.jsonl", rows) for name, rows in sorted(_tables(organization))
        ]
        manifest = {
            "organization": {"id": organization.pk, "slug": organization.slug},
            "written_at": now.astimezone(UTC).isoformat(timespec="microseconds"),
            "files": [
                {"name": each.name, "rows": each.rows, "bytes": each.bytes, "sha256": each.sha256}
                for each in files
            ],
        }
        archive.writestr("manifest.json", orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    return files


def _add(archive: zipfile.ZipFile, name: str, rows: Iterable[dict[str, Any]]) -> File:
    count, size, digest = 0, 0, sha256()
    with archive.open(name, "w", force_zip64=True) as file:
        for row in rows:
            line = orjson.dumps(row, default=_plain) + b"\n"
            file.write(line)
            digest.update(line)
            count, size = count + 1, size + len(line)
    return File(name, count, size, digest.hexdigest())


def _tables(organization: Organization) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    yield "organization", iter([_fields(organization)])
    for model in apps.get_models():
        label = model._meta.label_lower.replace(".", "_")
        if model._meta.app_config.name in settings.TENANT_APPS:
            yield f"data/{label}", _inside(organization, model)
        elif (name := _owner(model)) and model not in _LEFT_OUT:
            yield f"account/{label}", _owned(organization, model, name)


def _owner(model: type[models.Model]) -> str:
    """The field of a public table that names the organization, or ""."""
    for field in model._meta.concrete_fields:
        if field.related_model is Organization:
            return field.name
    return ""


def _owned(
    organization: Organization, model: type[models.Model], owner: str
) -> Iterator[dict[str, Any]]:
    rows = model._base_manager.filter(**{owner: organization.pk}).order_by("pk")
    for row in rows.iterator(chunk_size=_CHUNK):
        fields = _fields(row)
        if isinstance(row, Membership):
            fields["email"] = row.user.email
        yield fields


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
