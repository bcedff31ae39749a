"""GET /api/v1/audit and /api/v1/audit/export: what was changed in the organization, and by whom."""

from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from django.http import HttpRequest, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import BaseModel, ConfigDict, Field

from kit.edge import Json, check
from kit.errors import Invalid
from kit.moments import Moment
from kit.threads import in_thread, take_lane
from tenants import trail
from tenants.api.access import OrganizationEndpoint
from tenants.auth import Caller
from tenants.roles import Action
from tenants.trail import Filter

_TYPES = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}
_FILTERS = [
    OpenApiParameter(
        "q", str, description="A part of the action, actor, its name, address or target."
    ),
    OpenApiParameter("action", str, description="Or how it begins: `key.`"),
    OpenApiParameter("actor", str, description="`user:7`, `key:…`, `operator:1`, `system`"),
    OpenApiParameter("target", str, description="`key:…`, `membership:…`"),
    OpenApiParameter("since", OpenApiTypes.DATETIME),
    OpenApiParameter("until", OpenApiTypes.DATETIME, description="Before this instant."),
]


class Entry(BaseModel):
    """One change. `hash` is SHA-256 over the other fields, `previous` the hash before it."""

    sequence: int
    at: datetime
    actor: str
    actor_name: str
    address: str
    agent: str
    action: str
    target: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    previous: str
    hash: str


class Entries(BaseModel):
    """A page, newest first."""

    data: list[Entry]
    next: int | None = Field(description="Ask for the next page with `before` at this.")


class _Filters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    action: str = Field("", max_length=64)
    actor: str = Field("", max_length=64)
    target: str = Field("", max_length=254)
    since: Moment | None = None
    until: Moment | None = None
    q: str = Field("", max_length=254)

    def only(self) -> Filter:
        """As the domain takes it."""
        return Filter(self.action, self.actor, self.target, self.since, self.until, self.q)


class _Page(_Filters):
    before: int | None = Field(None, ge=1, le=2**62)
    limit: int = Field(50, ge=1, le=500)


class _Export(_Filters):
    format: str = Field("jsonl", pattern="^(csv|jsonl)$")


class Audit(OrganizationEndpoint):
    """The organization's audit log."""

    actions = {"GET": Action.READ_AUDIT}  # noqa: RUF012

    @extend_schema(
        operation_id="audit",
        tags=["Organization"],
        summary="Read the audit log",
        parameters=[
            *_FILTERS,
            OpenApiParameter("before", int, description="The `next` of the page before."),
            OpenApiParameter("limit", int, description="1 to 500; 50 if left out."),
        ],
        responses=Entries,
    )
    async def get(self, request: HttpRequest) -> Json:
        """A page of entries."""
        form = check(_asked(request), _Page)
        entries, further = await in_thread(
            trail.page, self.caller.organization, form.only(), before=form.before, most=form.limit
        )
        return Json({"data": entries, "next": further})


class AuditExport(OrganizationEndpoint):
    """The whole log as a file."""

    actions = {"GET": Action.READ_AUDIT}  # noqa: RUF012

    @extend_schema(
        operation_id="audit_export",
        tags=["Organization"],
        summary="Export the audit log",
        description="Oldest first, with the hashes by which it can be checked offline.",
        parameters=[*_FILTERS, OpenApiParameter("format", str, enum=["csv", "jsonl"])],
        responses={
            (200, "application/x-ndjson"): OpenApiTypes.STR,
            (200, "text/csv"): OpenApiTypes.STR,
        },
    )
    async def get(self, request: HttpRequest) -> StreamingHttpResponse:
        """As CSV or JSON lines."""
        return exported(request, self.caller, now=datetime.now(UTC))


def exported(request: HttpRequest, caller: Caller, *, now: datetime) -> StreamingHttpResponse:
    """The file that a request asks for, of the caller's organization; the portal's too."""
    form = check(_asked(request), _Export)
    parts = trail.chunks(caller.organization, form.only(), form=form.format)
    name = f"audit-{caller.slug}-{now:%Y%m%d}.{form.format}"
    return StreamingHttpResponse(
        _stream(parts, caller.organization),
        content_type=_TYPES[form.format],
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


async def _stream(parts: Iterator[bytes], organization: int) -> AsyncIterator[bytes]:
    take_lane(organization)
    while (part := await in_thread(next, parts, None)) is not None:
        yield part


def _asked(request: HttpRequest) -> Mapping[str, Any]:
    asked = request.GET.dict()
    if any("\0" in value for value in asked.values()):
        raise Invalid("A parameter has a NUL character; remove it.")
    return asked
