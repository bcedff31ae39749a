"""Where an organization stands with its credit and its month, and what things cost it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from billing import credit, grants, pricing
from billing.models import Account, PriceVersion
from billing.months import month_after, month_of
from billing.tiers import Tiers
from billing.usage import summary
from tenants.models import Organization


@dataclass(frozen=True, slots=True)
class Standing:
    """Amounts in nanos.

    `prepaid` is what grants have left, `held` what running requests hold, `forecast` the month's
    end.
    """

    currency: str
    limit: int
    owed: int
    held: int
    month: date
    spent: int
    forecast: int
    prepaid: int = 0

    @property
    def left(self) -> int:
        """What can be spent now."""
        return max(0, self.limit + self.prepaid - self.owed - self.held)


@dataclass(frozen=True, slots=True)
class Offered:
    """A price in force, or one to come; nanos for a million units by meter."""

    model: str
    currency: str
    effective_from: datetime
    rates: Mapping[str, int]
    tiers: Mapping[str, Tiers]


def of(*, organization: int, now: datetime) -> Standing:
    """As the ledger and the counters have it; raises `credit.NoAccount`."""
    account = _account(organization)
    month = month_of(now)
    counters = credit.counters(organization)
    found = summary(organization, month)
    return Standing(
        currency=account.currency,
        limit=account.credit_limit,
        owed=credit.owed(organization),
        held=counters.reserved if counters else 0,
        month=month,
        spent=found.amount,
        forecast=forecast(found.used, month=month, now=now) + found.amount - found.used,
        prepaid=grants.left(organization, now=now),
    )


def forecast(spent: int, *, month: date, now: datetime) -> int:
    """What a month's use comes to if the rest is like what has passed, in nanos; fees are known."""
    first, after = (datetime.combine(each, time(), UTC) for each in (month, month_after(month)))
    passed = max(timedelta(seconds=1), min(now, after) - first)
    return spent * ((after - first) // timedelta(seconds=1)) // (passed // timedelta(seconds=1))


def prices(*, organization: int, now: datetime) -> list[Offered]:
    """In the organization's currency: of each model the price in force, then those to come.

    Its own prices, or its plan's, stand instead of the list's.
    """
    currency = _account(organization).currency
    plan = Organization.objects.values_list("plan_id", flat=True).get(pk=organization)
    rows = PriceVersion.objects.filter(currency=currency).order_by("model", "effective_from")
    found: list[Offered] = []
    for price in pricing.nearest(
        map(pricing.as_price, rows), organization=organization, plan=plan, at=now
    ):
        offered = Offered(
            price.model, price.currency, price.effective_from, price.rates, price.tiers
        )
        replaced = found and found[-1].model == price.model and price.effective_from <= now
        found = [*found[:-1], offered] if replaced else [*found, offered]
    return found


def _account(organization: int) -> Account:
    found = Account.objects.for_org(organization).first()
    if found is None:
        raise credit.NoAccount("Your organization has no billing account yet. Ask the operator.")
    return found
