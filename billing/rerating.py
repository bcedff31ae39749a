"""A month's ledger rows priced again: under their own price lists, or under others."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from billing import adjustments, pricing, tiers
from billing.models import WRITTEN, LedgerEntry, Period, PriceVersion, State, tokens
from billing.prices import rates_problem
from billing.pricing import Price, charge
from billing.tiers import Tiers
from kit.errors import Invalid
from kit.paging import paged

Lists = Mapping[str, Mapping[str, Any]]
"""By model: nanos for a million units by meter, and under `tiers` what a month comes to."""
_TIERS = "tiers"


@dataclass(frozen=True, slots=True)
class Rerated:
    """A model's rows in all: what was booked, and what they come to now, in nanos."""

    model: str
    currency: str
    requests: int
    changed: int
    booked: int
    rerated: int

    @property
    def difference(self) -> int:
        """What the other prices would add."""
        return self.rerated - self.booked


def rerate(*, organization: int, month: date, lists: Lists | None = None) -> list[Rerated]:
    """Replay an organization's month, by model; changes nothing.

    A model that `lists` names is priced by it, every other row by the version it was booked
    under, which has to come to what was booked. What was free stays free: failures, and what was
    cancelled before its first token. Tiers count as the month's end counts them; of an open month
    those in force count as booked. Raises `Invalid` on rates that are no price.
    """
    new = {model: _checked(model, given) for model, given in (lists or {}).items()}
    totals: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    uses: dict[tuple[str, str, str], _Uses] = defaultdict(dict)
    for row in _rows(organization, month):
        price, amounts = _again(row, new)
        now = sum(amounts.values())
        _add(totals[row["model"], row["currency"]], 1, now != row["amount"], row["amount"], now)
        if price is None or _is_free(row):
            continue
        for name, nanos in amounts.items():
            meter = pricing.counts_as(price, name)
            _, units, sum_of = uses[row["model"], row["currency"], meter].get(
                price.version, (None, 0, 0)
            )
            uses[row["model"], row["currency"], meter][price.version] = (
                price.tiers.get(meter),
                units + row["units"][name],
                sum_of + nanos,
            )
    booked = _booked_tiers(organization, month)
    order = list(PriceVersion.objects.order_by("effective_from", "pk").values_list("pk", flat=True))
    for (model, currency, meter), by_version in uses.items():
        parts = [by_version[version] for version in order if version in by_version]
        before, now = booked.get((model, meter), 0), adjustments.tiered(parts)
        _add(totals[model, currency], 0, before != now, before, now)
    return [Rerated(*which, *figures) for which, figures in sorted(totals.items())]


_Uses = dict[int, tuple[Tiers | None, int, int]]
"""By price version: the tiers of a meter, units, and what they come to without."""


def _add(total: list[int], *parts: int) -> None:
    total[:] = [sum(pair) for pair in zip(total, parts, strict=True)]


def _checked(model: str, given: Any) -> Mapping[str, Any]:
    """What a price's fields become."""
    given = given if isinstance(given, dict) else {}
    rates = {name: value for name, value in given.items() if name != _TIERS}
    found = given.get(_TIERS, {})
    if problem := rates_problem(rates) or tiers.problem(found, rates):
        raise Invalid(f"{model}: {problem}", param="prices")
    return {"rates": rates, "tiers": {meter: tiers.parse(data) for meter, data in found.items()}}


def _booked_tiers(organization: int, month: date) -> dict[tuple[str, str], int]:
    """What tiers changed when the month closed, or would if it closed now."""
    periods = Period.objects.for_org(organization).filter(month=month)
    if not periods.filter(closed_at__isnull=False).exists():
        extras = adjustments.of_tiers(organization, month)
        return {(extra.model, extra.meter): extra.nanos for extra in extras}
    return adjustments.booked_tiers(organization, month)


def _rows(organization: int, month: date) -> Iterator[dict[str, Any]]:
    columns = ("model", "currency", "state", "units", "amount", "amounts", "price_version_id")
    rows = LedgerEntry.objects.for_org(organization).filter(month=month, kind__in=LedgerEntry.USED)
    for row in paged(rows.only(*columns), size=2_000):
        yield {name: getattr(row, name) for name in columns}


def _again(
    row: Mapping[str, Any], new: Mapping[str, Mapping[str, Any]]
) -> tuple[Price | None, Mapping[str, int]]:
    """The price that counts, and what the row comes to by meter."""
    if row["price_version_id"] is None:
        return None, row["amounts"]
    price = pricing.version(row["price_version_id"])
    if row["model"] in new:
        price = replace(price, **new[row["model"]])
    return price, charge(price, row["units"], free=_is_free(row)).amounts


def _is_free(row: Mapping[str, Any]) -> bool:
    failed, cancelled = (row["state"] == state for state in (State.FAILED, State.CANCELLED))
    return failed or (cancelled and not tokens(row["units"], *WRITTEN))
