"""GET /api/v1/analytics: what an organization's requests came to, and how long they took."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from analytics.rollups import report
from analytics.rollups.report import LONGEST, Asked, By, Figures
from kit.edge import Json, check
from kit.errors import Invalid
from kit.moments import Moment
from kit.money import decimal
from kit.threads import in_thread
from tenants.api.access import OrganizationEndpoint
from tenants.roles import Action

_USUAL = timedelta(days=7)
_YEARS = range(2000, 2200)
_HOURS, _DAYS = LONGEST["hour"].days, LONGEST["day"].days  # type: ignore[index]


class Milliseconds(BaseModel):
    """Of finished requests, within 15 %; null where there are none."""

    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None


class AnalyticsCounts(BaseModel):
    """Requests and what they came to. `amount` is exact, in the account's currency."""

    requests: int
    failed: int
    cancelled: int
    error_rate: float = Field(description="The share that failed.")
    cache_hits: int = Field(description="Answers that a cache had.")
    cache_hit_rate: float
    semantic_hits: int = Field(description="Of these, to the same question in other words.")
    prompt_tokens: int
    cached_tokens: int = Field(description="Of the prompts, read from a cache of prefixes.")
    completion_tokens: int
    amount: str = Field(examples=["0.000012300"])
    amount_nanos: int
    latency_ms: Milliseconds
    first_token_ms: Milliseconds


class AnalyticsGroup(AnalyticsCounts):
    """Of requests that are alike."""

    of: Mapping[str, str] = Field(examples=[{"day": "2026-11-24", "model": "echo"}])


class Analytics(BaseModel):
    """Whole hours or days, UTC, by when requests came."""

    span: Literal["hour", "day"]
    since: datetime
    until: datetime
    totals: AnalyticsCounts
    groups: list[AnalyticsGroup]


def _groups(text: str) -> str:
    names = text.split(",")
    if unknown := [each for each in names if each not in list(By)]:
        raise ValueError(f"{unknown[0][:40]!r} is none of {', '.join(By)}; separate by commas")
    if len(set(names)) < len(names):
        raise ValueError("each at most once")
    return text


def _this_age(at: datetime) -> datetime:
    if at.year not in _YEARS:
        raise ValueError(f"a year from {_YEARS[0]} to {_YEARS[-1]}")
    return at


_Moment = Annotated[Moment, AfterValidator(_this_age)]


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid")

    since: _Moment | None = None
    until: _Moment | None = None
    group_by: Annotated[str, AfterValidator(_groups)] | None = None
    model: str = Field("", max_length=64)
    key: str = Field("", max_length=32)
    project: str = Field("", max_length=64)

    def asked(self, now: datetime) -> Asked:
        """As the domain takes it: the last seven days, today included, where no time is named."""
        midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        until = self.until or midnight + timedelta(days=1)
        return Asked(
            since=self.since or until - _USUAL,
            until=until,
            by=[By(each) for each in self.group_by.split(",")] if self.group_by else [],
            model=self.model,
            key=self.key,
            project=self.project,
        )


PARAMETERS = [
    OpenApiParameter(
        "since", OpenApiTypes.DATETIME, description="Seven days before `until` if left out."
    ),
    OpenApiParameter("until", OpenApiTypes.DATETIME, description="The end of today if left out."),
    OpenApiParameter(
        "group_by",
        str,
        description=f"{', '.join(By)}: one or more, separated by commas.",
    ),
    OpenApiParameter("model", str),
    OpenApiParameter("key", str, description="An API key's id."),
    OpenApiParameter("project", str),
]


class AnalyticsEndpoint(OrganizationEndpoint):
    """The organization's figures."""

    actions = {"GET": Action.READ_USAGE}  # noqa: RUF012

    @extend_schema(
        operation_id="analytics",
        tags=["Usage"],
        summary="Tokens, cost, latency, errors and cache hits",
        description=f"Of requests that ended, a minute behind. Whole days (midnight to midnight, "
        f"UTC) up to {_DAYS} of them; by hour, or from or to another time of day, {_HOURS} days.",
        parameters=PARAMETERS,
        responses=Analytics,
    )
    async def get(self, request: HttpRequest) -> HttpResponseBase:
        """All together, and by group."""
        return Json(await self.told(request))

    async def told(self, request: HttpRequest) -> dict[str, Any]:
        """What is asked for, as `Analytics`."""
        query = request.GET.dict()
        if any("\0" in value for value in query.values()):
            raise Invalid("A parameter has a NUL character; remove it.")
        asked = check(query, _Query).asked(timezone.now())
        found = await in_thread(report.report, self.caller.organization, asked)
        return {
            "span": found.span,
            "since": found.since,
            "until": found.until,
            "totals": _shown(found.totals),
            "groups": [{"of": each.of, **_shown(each)} for each in found.groups],
        }


def _shown(of: Figures) -> dict[str, Any]:
    ran = of.requests or 1
    return {
        "requests": of.requests,
        "failed": of.failed,
        "cancelled": of.cancelled,
        "error_rate": round(of.failed / ran, 6),
        "cache_hits": of.cache_hits,
        "cache_hit_rate": round(of.cache_hits / ran, 6),
        "semantic_hits": of.semantic_hits,
        "prompt_tokens": of.prompt_tokens,
        "cached_tokens": of.cached_tokens,
        "completion_tokens": of.completion_tokens,
        "amount": decimal(of.amount),
        "amount_nanos": of.amount,
        "latency_ms": of.latency,
        "first_token_ms": of.first_token,
    }
