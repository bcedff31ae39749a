"""GET /api/v1/billing: plan, credit, budgets, what the month comes to. GET /api/v1/prices."""

from collections.abc import Mapping
from datetime import UTC, datetime

from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from pydantic import BaseModel, Field

from billing import budgets, refunded, standing, subscriptions
from billing.api import subscription
from billing.api.access import BillingEndpoint
from billing.api.budgets import OneBudget, as_budget
from billing.refunded import Back
from billing.standing import Offered
from billing.tiers import Tiers
from kit.edge import Json
from kit.money import decimal
from kit.threads import in_thread


class Returned(BaseModel):
    """Money on its way back to the card. One that was `done` may be `failed` days later."""

    amount: str = Field(examples=["25.000000000"])
    of: str = Field(examples=["prepaid credit", "invoice INV-2026-000042"])
    status: str = Field(examples=["pending", "sent", "done", "failed"])
    failure: str = Field(description="Why it failed; a top-up is credit again then.")
    asked_at: datetime
    settled_at: datetime | None = Field(description="When it was given back, or had failed.")


class Billing(BaseModel):
    """Where an organization stands; amounts are exact, in the currency's unit."""

    organization: str
    currency: str
    credit_limit: str = Field(examples=["100.000000000"])
    owed: str = Field(description="Usage that no paid invoice covers.")
    prepaid: str = Field(description="What top-ups and gifts have left.")
    held: str = Field(description="What requests that run now may still cost.")
    left: str = Field(description="What can be spent now: limit and prepaid, less owed, less held.")
    month: str = Field(examples=["2026-11"])
    spent: str = Field(description="What the running month has come to.")
    forecast: str = Field(
        description="What the month will come to if its use goes on like this, with its fees."
    )
    plan: subscription.Standing
    budgets: list[OneBudget] = Field(description="And what the month has spent of each.")
    refunds: list[Returned] = Field(description="The last 20, the newest first.")


class PriceStep(BaseModel):
    """From so many units of the month on."""

    from_units: int
    per_million: str


class PriceTiers(BaseModel):
    """What a month comes to: graduated (each step its own units) or volume (all at the reached)."""

    mode: str = Field(examples=["graduated"])
    steps: list[PriceStep]


class Price(BaseModel):
    """What a model costs from a moment on, for a million units of each meter."""

    model: str
    currency: str
    effective_from: datetime
    per_million: Mapping[str, str] = Field(examples=[{"input_tokens": "0.050000000"}])
    tiers: Mapping[str, PriceTiers] = Field(
        description="By meter; the month's end takes the difference to `per_million` off."
    )


class Prices(BaseModel):
    """The prices in force, and those to come."""

    data: list[Price]


class BillingStanding(BillingEndpoint):
    """The plan, credit, what is owed, budgets, and the running month."""

    @extend_schema(
        operation_id="billing",
        tags=["Usage"],
        summary="Plan, credit, budgets and spending",
        responses=Billing,
    )
    async def get(self, request: HttpRequest) -> HttpResponseBase:
        """Of the caller's organization."""
        now = timezone.now()
        slug, organization = self.caller.slug, self.caller.organization
        found = await in_thread(lambda: _billing(slug, organization, now))
        return Json(found.model_dump(mode="json"))


class PriceList(BillingEndpoint):
    """What the models cost."""

    @extend_schema(
        operation_id="prices", tags=["Usage"], summary="Prices of the models", responses=Prices
    )
    async def get(self, request: HttpRequest) -> HttpResponseBase:
        """Those this key may use, in the organization's currency."""
        now, caller = timezone.now(), self.caller
        found = await in_thread(lambda: standing.prices(organization=caller.organization, now=now))
        mine = [each for each in found if not caller.models or each.model in caller.models]
        return Json(Prices(data=[_price(each) for each in mine]).model_dump())


def _billing(slug: str, organization: int, now: datetime) -> Billing:
    found = standing.of(organization=organization, now=now)
    return Billing(
        organization=slug,
        currency=found.currency,
        credit_limit=decimal(found.limit),
        owed=decimal(found.owed),
        held=decimal(found.held),
        prepaid=decimal(found.prepaid),
        left=decimal(found.left),
        month=f"{found.month:%Y-%m}",
        spent=decimal(found.spent),
        forecast=decimal(found.forecast),
        plan=subscription.as_standing(subscriptions.current(organization)),
        budgets=[as_budget(each) for each in budgets.listed(organization=organization, now=now)],
        refunds=[_returned(each) for each in refunded.listed(organization)],
    )


def _returned(each: Back) -> Returned:
    return Returned(
        amount=decimal(each.nanos),
        of=each.of,
        status=each.status,
        failure=each.failure,
        asked_at=each.asked_at,
        settled_at=each.settled_at,
    )


def _price(each: Offered) -> Price:
    return Price(
        model=each.model,
        currency=each.currency,
        effective_from=each.effective_from.astimezone(UTC),
        per_million={meter: decimal(nanos) for meter, nanos in each.rates.items()},
        tiers={meter: _tiers(found) for meter, found in each.tiers.items()},
    )


def _tiers(found: Tiers) -> PriceTiers:
    steps = [PriceStep(from_units=n, per_million=decimal(rate)) for n, rate in found.steps]
    return PriceTiers(mode=found.mode, steps=steps)
