"""GET /api/v1/usage: what an organization used in a month, and what it comes to."""

from collections.abc import Mapping
from datetime import date, datetime
from uuid import UUID

from django.http import HttpRequest
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import BaseModel, Field

from billing.api.access import BillingEndpoint
from billing.grouping import MOST, OTHERS, By, Group, grouped
from billing.models import READ, WRITTEN, tokens
from billing.months import month_of, parse_month
from billing.usage import Row, Summary, Use, recent, summary
from kit.edge import Json
from kit.errors import Invalid
from kit.money import NANOS
from kit.threads import in_thread

_RECENT = 20


class Totals(BaseModel):
    """Requests, tokens and money. `amount` is exact, in the currency's unit."""

    requests: int
    input_tokens: int
    output_tokens: int
    amount: str = Field(examples=["0.000012300"])
    amount_nanos: int = Field(description="The amount in 10⁻⁹ of the currency unit.")


class ModelTotals(Totals):
    """The totals of one model."""

    model: str


class UsageEntry(BaseModel):
    """One request, as billed."""

    request: UUID
    model: str
    state: str
    units: Mapping[str, int]
    amount: str
    amount_nanos: int
    label: str = Field(description="The X-Request-ID that the caller sent.")
    created_at: datetime


class UsageGroup(BaseModel):
    """Requests that are alike."""

    of: Mapping[str, str] = Field(examples=[{"day": "2026-11-24", "project": "site"}])
    requests: int
    units: Mapping[str, int]
    amount: str
    amount_nanos: int


class UsageReport(BaseModel):
    """A month of an organization's."""

    organization: str
    month: str = Field(examples=["2026-11"])
    currency: str | None
    totals: Totals
    models: list[ModelTotals]
    groups: list[UsageGroup] | None = Field(None, description="With `group_by`.")
    groups_truncated: bool = Field(
        False,
        description=f"Whether the groups past the first {MOST:,} are summed in one, `{OTHERS}`.",
    )
    recent: list[UsageEntry] = Field(description="The last 20 requests.")


class Usage(BillingEndpoint):
    """The caller's organization's usage by calendar month (UTC)."""

    @extend_schema(
        operation_id="usage",
        tags=["Usage"],
        summary="Usage of a month",
        description="What your organization used in a month, by model, and what it comes to.",
        parameters=[
            OpenApiParameter("month", str, description="YYYY-MM, UTC; default: the running month."),
            OpenApiParameter(
                "group_by",
                str,
                description="day, model, key, project, meter: one or more, separated by commas.",
            ),
        ],
        responses=UsageReport,
    )
    async def get(self, request: HttpRequest) -> Json:
        """The month's totals, by model, and its last requests."""
        month, by = _month(request), _by(request)
        organization = self.caller.organization
        used, rows, groups = await in_thread(_read, organization, month, by)
        report = _report(self.caller.slug, used, rows)
        if by:
            found, report.groups_truncated = groups
            report.groups = [_group(each) for each in found]
        return Json(report.model_dump())


def _read(
    organization: int, month: date, by: list[By]
) -> tuple[Summary, tuple[Row, ...], tuple[list[Group], bool]]:
    groups = grouped(organization, month, by) if by else ([], False)
    return summary(organization, month), recent(organization, month, most=_RECENT), groups


def _by(request: HttpRequest) -> list[By]:
    found = []
    for name in filter(None, request.GET.get("group_by", "").split(",")):
        if name not in list(By):
            raise Invalid(
                f"group_by: {name!r} is none of {', '.join(By)}; separate several by commas.",
                param="group_by",
            )
        if name not in found:
            found.append(By(name))
    return found


def _group(each: Group) -> UsageGroup:
    return UsageGroup(
        of=each.of,
        requests=each.requests,
        units=each.units,
        amount=_decimal(each.amount),
        amount_nanos=each.amount,
    )


def _month(request: HttpRequest) -> date:
    text = request.GET.get("month")
    if text is None:
        return month_of(timezone.now())
    try:
        return parse_month(text)
    except ValueError as error:
        raise Invalid(f"month: {error}", param="month") from None


def _report(organization: str, used: Summary, rows: tuple[Row, ...]) -> UsageReport:
    return UsageReport(
        organization=organization,
        month=f"{used.month:%Y-%m}",
        currency=used.currency or None,
        totals=Totals(
            requests=used.requests,
            input_tokens=sum(tokens(use.units, *READ) for use in used.parts),
            output_tokens=sum(tokens(use.units, *WRITTEN) for use in used.parts),
            amount=_decimal(used.amount),
            amount_nanos=used.amount,
        ),
        models=[_model(use) for use in used.models],
        groups=None,
        groups_truncated=False,
        recent=[_entry(row) for row in rows],
    )


def _model(use: Use) -> ModelTotals:
    return ModelTotals(
        model=use.model,
        requests=use.requests,
        input_tokens=tokens(use.units, *READ),
        output_tokens=tokens(use.units, *WRITTEN),
        amount=_decimal(use.amount),
        amount_nanos=use.amount,
    )


def _entry(row: Row) -> UsageEntry:
    return UsageEntry(
        request=row.request,
        model=row.model,
        state=row.state,
        units=row.units,
        amount=_decimal(row.amount),
        amount_nanos=row.amount,
        label=row.label,
        created_at=row.created_at,
    )


def _decimal(nanos: int) -> str:
    whole, fraction = divmod(abs(nanos), NANOS)
    return f"{'-' if nanos < 0 else ''}{whole}.{fraction:09d}"
