"""What use costs: effective-dated price lists, held in memory."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from django.conf import settings
from django.utils import timezone

from billing import tiers
from billing.models import IN_BATCHES, PART_OF, Account, Meter, PriceVersion
from billing.tiers import Tiers
from kit import money
from kit.errors import Unavailable
from kit.snapshot import Snapshot
from tenants.models import Organization

_SECONDS = 5.0


class NoPrice(Unavailable):
    """A model that nobody has priced is not served: what it costs would be anyone's guess."""

    code = "no_price"


@dataclass(frozen=True, slots=True)
class Price:
    """One version of a model's price list; `rates` are nanos for a million units of a meter.

    `organization` is whose alone it is, `plan` whose organizations'; neither: everybody's.
    `tiers` say by meter what a whole month comes to.
    """

    version: int
    model: str
    currency: str
    effective_from: datetime
    rates: Mapping[str, int]
    organization: int | None = None
    plan: int | None = None
    tiers: Mapping[str, Tiers] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Lists:
    """All price lists, the plans of the organizations that have prices by their plan, and the
    currencies of the accounts that are not in the usual one.
    """

    prices: tuple[Price, ...]
    plans: Mapping[int, int]
    currencies: Mapping[int, str]

    def currency_of(self, organization: int | None) -> str | None:
        """Its account's."""
        if organization is None:
            return None
        return self.currencies.get(organization, settings.NEW_CUSTOMER_CURRENCY)


@dataclass(frozen=True, slots=True)
class Charge:
    """What a request costs, in nanos of a currency: the amount, and its parts by meter."""

    currency: str
    amount: int
    amounts: Mapping[str, int]


async def price_of(
    model: str, *, currency: str | None = None, organization: int | None = None
) -> Price:
    """The price of `model` in force now, without waiting for the database.

    An `organization` has its account's currency; its own price goes before its plan's, and that
    before the list's.

    Where neither says a `currency` the model has to be priced in one alone. Raises `NoPrice`.
    """
    return _found(await _prices.aget(), model, timezone.now(), currency, organization)


def price_for(
    model: str, at: datetime, *, currency: str | None = None, organization: int | None = None
) -> Price:
    """`price_of` at a moment, for threads."""
    return _found(_prices.get(), model, at, currency, organization)


def version(number: int) -> Price:
    """The price list a request was admitted under, for threads. Raises `NoPrice`."""
    for attempt in range(2):
        for price in _prices.get().prices:
            if price.version == number:
                return price
        if attempt == 0:
            _prices.forget()
    raise NoPrice(f"There is no price version {number}.")


def charge(price: Price, units: Mapping[str, int], *, free: bool = False) -> Charge:
    """What `units` by meter cost: each meter is rounded half to even, to the nano.

    A meter that the price list leaves out costs nothing, but one of batches as much as outside
    them, and a part (`PART_OF`) as much as the whole; everything costs nothing if `free`. A part
    and its whole are rounded together, so that however a request is split, it never costs more
    than was held for it. Raises ValueError on a meter that doesn't exist and on negative units.
    """
    amounts: dict[str, int] = {}
    for meter, count in units.items():
        if count < 0:
            raise ValueError(f"{meter}: {count} units were used; there can't be less than none.")
        rate = 0 if free else _rate(price, meter)
        amounts[Meter(meter).value] = money.amount(count, rate)
    for part, whole in PART_OF.items():
        if part in units and whole in units and not free:
            both = sum(units[meter] * _rate(price, meter) for meter in (part, whole))
            amounts[whole.value] = money.of_millionths(both) - amounts[part.value]
    return Charge(price.currency, sum(amounts.values()), amounts)


def _rate(price: Price, meter: str) -> int:
    if meter in price.rates:
        return price.rates[meter]
    whole = PART_OF.get(Meter(meter), meter.removeprefix(IN_BATCHES))
    return price.rates.get(whole, 0)


def counts_as(price: Price, meter: str) -> str:
    """By which meter's tiers a meter counts: a part that has no price of its own is the whole's."""
    return meter if meter in price.rates else PART_OF.get(Meter(meter), Meter(meter)).value


def most(price: Price, **units: int) -> int:
    """The most a request that uses no more than `units` can cost, in nanos."""
    return charge(price, units).amount


def forget() -> None:
    """Read the price lists anew at the next request of this process."""
    _prices.forget()


def _load() -> _Lists:
    rows = PriceVersion.objects.order_by("effective_from", "pk")
    plans = Organization.objects.filter(plan__prices__isnull=False).values_list("pk", "plan_id")
    others = Account.objects.across_organizations().exclude(currency=settings.NEW_CUSTOMER_CURRENCY)
    currencies = dict(others.values_list("organization_id", "currency"))
    return _Lists(tuple(map(as_price, rows)), dict(plans.distinct()), currencies)


def as_price(row: PriceVersion) -> Price:
    """A row, as it is used."""
    return Price(
        version=row.pk,
        model=row.model,
        currency=row.currency,
        effective_from=row.effective_from,
        rates=row.rates,
        organization=row.organization_id,
        plan=row.plan_id,
        tiers={meter: tiers.parse(data) for meter, data in row.tiers.items()},
    )


_prices = Snapshot(_load, seconds=_SECONDS)


def _found(
    lists: _Lists, model: str, at: datetime, currency: str | None, organization: int | None
) -> Price:
    """In force of the price lists that count for an organization: of a model the nearest."""
    currency = currency or lists.currency_of(organization)
    plan = lists.plans.get(organization) if organization is not None else None
    mine = (price for price in lists.prices if currency in (None, price.currency))
    prices = nearest(mine, organization=organization, plan=plan, at=at)
    return _in_force(prices, model, currency, at)


def tiered() -> list[Price]:
    """All versions, in their order, of the models that have tiers in one; of this very moment."""
    rows = PriceVersion.objects.order_by("effective_from", "pk")
    having = PriceVersion.objects.exclude(tiers={}).values("model")
    return list(map(as_price, rows.filter(model__in=having)))


def nearest(
    prices: Iterable[Price], *, organization: int | None, plan: int | None, at: datetime
) -> tuple[Price, ...]:
    """Of each model one's own prices where one has begun, else the plan's, else the list's.

    With those that are nearer and yet to come.
    """
    mine = [
        price
        for price in prices
        if price.organization in (None, organization) and price.plan in (None, plan)
    ]
    best: dict[str, int] = {}
    for price in mine:
        if price.effective_from <= at:
            best[price.model] = max(best.get(price.model, 0), _nearness(price))
    return tuple(price for price in mine if _nearness(price) >= best.get(price.model, 0))


def _nearness(price: Price) -> int:
    return 2 if price.organization is not None else int(price.plan is not None)


def _in_force(prices: tuple[Price, ...], model: str, currency: str | None, at: datetime) -> Price:
    begun = [price for price in prices if price.model == model and price.effective_from <= at]
    currencies = sorted({price.currency for price in begun})
    if len(currencies) == 1:
        return begun[-1]
    if currencies:
        raise NoPrice(f"{model} is priced in {', '.join(currencies)}: one has to be named.")
    raise NoPrice(
        f"{model} has no price yet"
        + (
            f" in {currency}, the account's currency; ask the operator for one."
            if currency
            else "."
        )
    )
