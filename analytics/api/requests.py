"""/api/v1/requests: an organization's history, its export, and feedback on an answer."""

from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from analytics import feedback, requests
from analytics.feedback import LONGEST
from analytics.requests import Filter
from inference.models import Request, RequestFeedback
from kit import money
from kit.edge import Json, body, check
from kit.errors import Invalid
from kit.moments import Moment
from kit.threads import in_thread
from tenants.api.access import OrganizationEndpoint
from tenants.auth import Caller
from tenants.roles import Action

_TYPES = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}
_STATES = list(Request.State.values)
_FILTERS = [
    OpenApiParameter("since", OpenApiTypes.DATETIME, description="Asked at or after this instant."),
    OpenApiParameter("until", OpenApiTypes.DATETIME, description="Asked before this instant."),
    OpenApiParameter("model", str, description="The one that served."),
    OpenApiParameter("key", str, description="An API key's id."),
    OpenApiParameter("project", str),
    OpenApiParameter("status", str, description=f"{', '.join(_STATES)}; several by commas."),
    OpenApiParameter("min_cost", str, description="In the currency's unit: `0.0005`."),
    OpenApiParameter("max_cost", str),
    OpenApiParameter("rating", str, enum=list(RequestFeedback.Rating.values)),
    OpenApiParameter(
        "q",
        str,
        description="Words that all stand in what was asked or answered; whole ones, whatever "
        "their case. Needs searchable texts (PUT /api/v1/retention) and the right to run models.",
    ),
]


PAGES = [
    *_FILTERS,
    OpenApiParameter("cursor", OpenApiTypes.UUID, description="The page before's `next`."),
    OpenApiParameter("limit", int, description="1 to 500; 50 if left out."),
]


class HistoryEntry(BaseModel):
    """A request that ended, as booked. `cache` says what found its answer, if none was made."""

    request_id: UUID
    state: str = Field(description="finished, cancelled or failed.")
    reason: str = Field(examples=["stop"])
    error: str
    endpoint: str
    model: str
    model_version: str
    key: str
    project: str
    label: str = Field(description="The X-Request-ID that the caller sent.")
    region: str
    cache: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    amount: str = Field(examples=["0.000012300"])
    amount_nanos: int
    currency: str
    attempts: int
    created_at: datetime
    started_at: datetime | None
    first_token_at: datetime | None
    finished_at: datetime
    latency_ms: int
    first_token_ms: int | None
    rating: Literal["good", "bad"] | None


class HistoryPage(BaseModel):
    """A page, newest first."""

    data: list[HistoryEntry]
    next: UUID | None = Field(description="The `cursor` of the next page; null on the last.")


class FeedbackForm(BaseModel):
    """What its caller thinks of an answer."""

    model_config = ConfigDict(extra="forbid")

    rating: RequestFeedback.Rating
    comment: str = Field("", max_length=LONGEST, pattern=r"^[^\x00]*$")


class Feedback(BaseModel):
    """As it was given last."""

    request_id: UUID
    rating: Literal["good", "bad"]
    comment: str
    given_by: str
    given_at: datetime


def _nanos(text: str) -> str:
    money.parse(text)
    return text


def _states(text: str) -> str:
    for each in text.split(","):
        if each not in _STATES:
            raise ValueError(f"{each[:40]!r} is none of {', '.join(_STATES)}")
    return text


_Cost = Annotated[str, AfterValidator(_nanos)]


class _Filters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    since: Moment | None = None
    until: Moment | None = None
    model: str = Field("", max_length=64)
    key: str = Field("", max_length=32)
    project: str = Field("", max_length=64)
    status: Annotated[str, AfterValidator(_states)] | None = None
    min_cost: _Cost | None = None
    max_cost: _Cost | None = None
    rating: Literal["good", "bad"] | None = None
    q: str = Field("", max_length=400)

    def only(self) -> Filter:
        """As the domain takes it."""
        return Filter(
            since=self.since,
            until=self.until,
            model=self.model,
            key=self.key,
            project=self.project,
            states=self.status.split(",") if self.status else (),
            least=money.parse(self.min_cost) if self.min_cost else None,
            most=money.parse(self.max_cost) if self.max_cost else None,
            rating=self.rating or "",
            words=self.q,
        )


class _Page(_Filters):
    cursor: UUID | None = None
    limit: int = Field(50, ge=1, le=500)


class _Export(_Filters):
    format: Literal["csv", "jsonl"] = "jsonl"


class Requests(OrganizationEndpoint):
    """The organization's history."""

    actions = {"GET": Action.READ_USAGE}  # noqa: RUF012

    @extend_schema(
        operation_id="requests",
        tags=["Requests"],
        summary="List requests",
        description="Those that ended, newest first. Of texts there is nothing in it: GET "
        "/api/v1/requests/{id} has them where they are kept.",
        parameters=PAGES,
        responses=HistoryPage,
    )
    async def get(self, request: HttpRequest) -> HttpResponseBase:
        """A page of them."""
        entries, further = await self.found(request)
        return Json({"data": entries, "next": further})

    async def found(self, request: HttpRequest) -> tuple[list[requests.Entry], UUID | None]:
        """The page that is asked for, and where the next one begins."""
        form = check(_asked(request, self.caller), _Page)
        return await in_thread(
            requests.page,
            self.caller.organization,
            form.only(),
            before=form.cursor,
            most=form.limit,
        )


class RequestsExport(OrganizationEndpoint):
    """The whole history as a file."""

    actions = {"GET": Action.READ_USAGE}  # noqa: RUF012

    @extend_schema(
        operation_id="requests_export",
        tags=["Requests"],
        summary="Export requests",
        description="All that pass the filters, oldest first, as a stream.",
        parameters=[*_FILTERS, OpenApiParameter("format", str, enum=["csv", "jsonl"])],
        responses={
            (200, "application/x-ndjson"): OpenApiTypes.STR,
            (200, "text/csv"): OpenApiTypes.STR,
        },
    )
    async def get(self, request: HttpRequest) -> StreamingHttpResponse:
        """As CSV or JSON lines."""
        form = check(_asked(request, self.caller), _Export)
        parts = await in_thread(
            requests.chunks, self.caller.organization, form.only(), form=form.format
        )
        name = f"requests-{self.caller.slug}-{datetime.now(UTC):%Y%m%d}.{form.format}"
        return StreamingHttpResponse(
            _stream(parts),
            content_type=_TYPES[form.format],
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )


class RequestFeedbackEndpoint(OrganizationEndpoint):
    """What its caller thinks of an answer."""

    actions = {"GET": Action.READ_USAGE, "PUT": Action.RUN_MODELS}  # noqa: RUF012

    @extend_schema(
        operation_id="feedback",
        tags=["Requests"],
        summary="See the feedback on a request",
        responses=Feedback,
    )
    async def get(self, request: HttpRequest, identifier: UUID) -> Json:
        """As it was given last."""
        return Json(await in_thread(feedback.given, self.caller.organization, identifier))

    @extend_schema(
        operation_id="feedback_give",
        tags=["Requests"],
        summary="Give feedback on a request",
        description="Good or bad, and why; again, it replaces what was said before. A comment is "
        "sealed like all texts, and refused where nothing is to be kept.",
        request=FeedbackForm,
        responses=Feedback,
        examples=[
            OpenApiExample(
                "A good answer",
                value={"rating": "good", "comment": "To the point."},
                request_only=True,
            )
        ],
    )
    async def put(self, request: HttpRequest, identifier: UUID) -> Json:
        """Once the request has ended."""
        form = await body(request, FeedbackForm)
        said = await in_thread(
            feedback.give,
            self.caller.organization,
            identifier,
            rating=form.rating,
            comment=form.comment,
            by=f"user:{self.caller.user}" if self.caller.user else f"key:{self.caller.key}",
            now=timezone.now(),
        )
        return Json(said)


async def _stream(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (part := await in_thread(next, parts, None)) is not None:
        yield part


def _asked(request: HttpRequest, caller: Caller) -> Mapping[str, Any]:
    """The query; whoever looks for words may read texts."""
    asked = request.GET.dict()
    if any("\0" in value for value in asked.values()):
        raise Invalid("A parameter has a NUL character; remove it.")
    if asked.get("q"):
        caller.allow(Action.RUN_MODELS)
    return asked
