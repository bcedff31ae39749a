"""/api/v1/exports: everything that an organization owns, written in the background, to download."""

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from django.http import HttpRequest, StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from pydantic import BaseModel, ConfigDict, Field

from analytics import exports
from analytics.models import Export
from kit.edge import Json, body
from kit.threads import in_thread
from tenants.api.access import OrganizationEndpoint, actor
from tenants.roles import Action


class ExportForm(BaseModel):
    """Everything is exported: there is nothing to choose."""

    model_config = ConfigDict(extra="forbid")


class ExportEntry(BaseModel):
    """An export: waiting, running, ready, failed or expired."""

    id: UUID
    state: str
    asked_by: str
    created_at: datetime
    finished_at: datetime | None
    expires_at: datetime | None
    bytes: int
    sha256: str = Field(description="Of the zip.")
    error: str


class ExportEntries(BaseModel):
    """Newest first."""

    data: list[ExportEntry]


class Exports(OrganizationEndpoint):
    """An organization's exports."""

    actions = {"GET": Action.MANAGE_PRIVACY, "POST": Action.MANAGE_PRIVACY}  # noqa: RUF012

    @extend_schema(
        operation_id="exports",
        tags=["Organization"],
        summary="List exports",
        responses=ExportEntries,
    )
    async def get(self, request: HttpRequest) -> Json:
        """All that were asked for."""
        found = await in_thread(exports.listed, self.caller.organization)
        return Json({"data": [_shown(each) for each in found]})

    @extend_schema(
        operation_id="exports_ask",
        tags=["Organization"],
        summary="Export everything the organization owns",
        description="A zip of JSON lines, a file a table, with a manifest of checksums: people, "
        "keys, the ledger, invoices, the audit log, the history and its texts. Written within "
        "minutes; while one is open, asking again returns it.",
        request=ExportForm,
        responses={202: ExportEntry},
    )
    async def post(self, request: HttpRequest) -> Json:
        """Ask for one."""
        await body(request, ExportForm)
        now = timezone.now()

        def ask() -> Export:
            return exports.ask(self.caller.organization, by=actor(self.caller), now=now)

        return Json(_shown(await in_thread(ask)), status=202)


class OneExport(OrganizationEndpoint):
    """How far an export is."""

    actions = {"GET": Action.MANAGE_PRIVACY}  # noqa: RUF012

    @extend_schema(
        operation_id="exports_retrieve",
        tags=["Organization"],
        summary="How far an export is",
        responses=ExportEntry,
    )
    async def get(self, request: HttpRequest, identifier: UUID) -> Json:
        """Its state."""
        found = await in_thread(exports.one, self.caller.organization, identifier)
        return Json(_shown(found))


class ExportDownload(OrganizationEndpoint):
    """The file."""

    actions = {"GET": Action.MANAGE_PRIVACY}  # noqa: RUF012

    @extend_schema(
        operation_id="exports_download",
        tags=["Organization"],
        summary="Download an export",
        responses={(200, "application/zip"): OpenApiTypes.BINARY},
    )
    async def get(self, request: HttpRequest, identifier: UUID) -> StreamingHttpResponse:
        """The zip."""
        now = timezone.now()

        def parts() -> Iterator[bytes]:
            by = actor(self.caller)
            return exports.download(self.caller.organization, identifier, by=by, now=now)

        name = f"{self.caller.slug}-{now:%Y%m%d}.zip"
        return StreamingHttpResponse(
            _stream(await in_thread(parts)),
            content_type="application/zip",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )


async def _stream(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (part := await in_thread(next, parts, None)) is not None:
        yield part


def _shown(export: Export) -> dict[str, Any]:
    fields = ("id", "state", "asked_by", "created_at", "finished_at", "expires_at")
    return {
        **{name: getattr(export, name) for name in fields},
        "bytes": export.size,
        "sha256": export.sha256,
        "error": export.error,
    }
