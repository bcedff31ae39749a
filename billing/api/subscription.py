"""GET /api/v1/plans; /api/v1/billing/subscription: see, choose, quote and cancel a plan."""

from datetime import UTC, datetime

from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, extend_schema
from pydantic import BaseModel, ConfigDict, Field

from billing import subscriptions
from billing.api.access import AccountEndpoint
from billing.offers import PlanTerms, Subscription
from billing.subscriptions import Quote
from kit.edge import Json, body
from kit.money import decimal
from kit.threads import in_thread


class OfferedPlan(BaseModel):
    """A plan, and what it costs a month from its anniversary."""

    plan: str
    summary: str
    currency: str
    fee: str = Field(examples=["30.000000000"])
    seat_fee: str = Field(description="For each seat past the included ones.")
    included_seats: int
    allowance: str = Field(description="What each period pays of the use.")
    minimum: str = Field(description="What a whole calendar month's use comes to at least.")
    trial_days: int


class OfferedPlans(BaseModel):
    """Those that your organization may choose."""

    data: list[OfferedPlan]


class Standing(BaseModel):
    """A plan, and what comes after the running period. `plan` is null where there is none."""

    plan: str | None
    state: str = Field(examples=["active", "trialing", "ended", "none"])
    seats: int
    timezone: str
    period_start: datetime | None
    period_end: datetime | None
    cancel_at_period_end: bool
    next_plan: str | None
    next_seats: int | None


class WantedPlan(BaseModel):
    """The plan to be on."""

    model_config = ConfigDict(extra="forbid")

    plan: str = Field(min_length=1, max_length=60, examples=["Team"])
    seats: int | None = Field(None, ge=1, description="Default: as many as now, or are included.")
    timezone: str | None = Field(
        None,
        max_length=64,
        examples=["Europe/Berlin"],
        description=(
            "Of anniversaries. On a running plan it holds from the next period on; without one the "
            "plan keeps its own."
        ),
    )


class QuotedPlan(BaseModel):
    """What choosing comes to: now, and for each period from `begins_at` on."""

    plan: str
    seats: int
    currency: str
    due_now: str
    each_period: str
    begins_at: datetime
    at_once: bool
    trial: bool


class Plans(AccountEndpoint):
    """What there is to choose from."""

    @extend_schema(
        operation_id="plans", tags=["Usage"], summary="List plans", responses=OfferedPlans
    )
    async def get(self, request: HttpRequest) -> HttpResponseBase:
        """In the organization's currency, the cheapest first."""
        now, organization = timezone.now(), self.caller.organization
        found = await in_thread(lambda: subscriptions.offered(organization=organization, now=now))
        return Json(OfferedPlans(data=[_offered(each) for each in found]).model_dump())


class OneSubscription(AccountEndpoint):
    """The organization's plan."""

    @extend_schema(
        operation_id="subscription",
        tags=["Usage"],
        summary="The plan you are on",
        responses=Standing,
    )
    async def get(self, request: HttpRequest) -> HttpResponseBase:
        """And what comes next."""
        found = await in_thread(lambda: subscriptions.current(self.caller.organization))
        return Json(as_standing(found).model_dump())

    @extend_schema(
        operation_id="choose_plan",
        tags=["Usage"],
        summary="Choose a plan or a number of seats",
        description=(
            "What costs more holds at once, and the rest of the period is charged for it; what "
            "costs less begins with the next period. Choosing what there is takes a change or a "
            "cancellation back."
        ),
        request=WantedPlan,
        responses=Standing,
        examples=[OpenApiExample("A team of five", value={"plan": "Team", "seats": 5})],
    )
    async def put(self, request: HttpRequest) -> HttpResponseBase:
        """The plan as it stands then."""
        wanted, now = await body(request, WantedPlan), timezone.now()

        def choose() -> Standing:
            subscriptions.choose(
                organization=self.caller.organization,
                plan=wanted.plan,
                seats=wanted.seats,
                zone=wanted.timezone,
                now=now,
                by=self.actor,
            )
            return as_standing(subscriptions.current(self.caller.organization))

        return Json((await in_thread(choose)).model_dump())

    @extend_schema(
        operation_id="cancel_plan",
        tags=["Usage"],
        summary="Cancel at the end of the period",
        responses={200: Standing},
    )
    async def delete(self, request: HttpRequest) -> HttpResponseBase:
        """It holds until then."""
        now = timezone.now()

        def cancel() -> Standing:
            organization = self.caller.organization
            subscriptions.cancel(organization=organization, now=now, by=self.actor)
            return as_standing(subscriptions.current(organization))

        return Json((await in_thread(cancel)).model_dump())


class SubscriptionQuote(AccountEndpoint):
    """What it would come to."""

    @extend_schema(
        operation_id="quote_plan",
        tags=["Usage"],
        summary="What a plan would cost now",
        request=WantedPlan,
        responses=QuotedPlan,
        examples=[OpenApiExample("A team of five", value={"plan": "Team", "seats": 5})],
    )
    async def post(self, request: HttpRequest) -> HttpResponseBase:
        """Changes nothing."""
        wanted, now = await body(request, WantedPlan), timezone.now()
        found = await in_thread(
            lambda: subscriptions.quote(
                organization=self.caller.organization,
                plan=wanted.plan,
                seats=wanted.seats,
                now=now,
            )
        )
        return Json(_quoted(found).model_dump())


def _offered(each: PlanTerms) -> OfferedPlan:
    return OfferedPlan(
        plan=each.plan.name,
        summary=each.summary,
        currency=each.currency,
        fee=decimal(each.fee),
        seat_fee=decimal(each.seat_fee),
        included_seats=each.included_seats,
        allowance=decimal(each.allowance),
        minimum=decimal(each.minimum),
        trial_days=each.trial_days,
    )


def as_standing(found: Subscription | None) -> Standing:
    """As the API says it."""
    if found is None:
        return Standing(
            plan=None,
            state="none",
            seats=0,
            timezone="UTC",
            period_start=None,
            period_end=None,
            cancel_at_period_end=False,
            next_plan=None,
            next_seats=None,
        )
    return Standing(
        plan=found.plan.name if found.is_on else None,
        state=found.state,
        seats=found.seats,
        timezone=found.zone,
        period_start=found.period_start.astimezone(UTC),
        period_end=found.period_end.astimezone(UTC),
        cancel_at_period_end=found.cancel_at_end,
        next_plan=found.next_plan.name if found.next_plan else None,
        next_seats=found.next_seats,
    )


def _quoted(found: Quote) -> QuotedPlan:
    return QuotedPlan(
        plan=found.plan,
        seats=found.seats,
        currency=found.currency,
        due_now=decimal(found.due_now),
        each_period=decimal(found.cost),
        begins_at=found.begins_at.astimezone(UTC),
        at_once=found.at_once,
        trial=found.trial,
    )
