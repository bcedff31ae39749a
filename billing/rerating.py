"""A month's ledger rows priced again: under their own price lists, or under others."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from billing import pricing
from billing.models import WRITTEN, LedgerEntry, State, rates_problem, tokens
from billing.pricing import charge
from kit.errors import Invalid

Lists = Mapping[str, Mapping[str, int]]
"""Nanos for a million units, by model and meter."""


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
    cancelled before its first token. Raises `Invalid` on rates that are no price.
    """
    for model, rates in (lists or {}).items():
        if problem := rates_problem(rates):
            raise Invalid(f"{model}: {problem}", param="prices")
    totals: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for row in _rows(organization, month):
        now = _amount(row, lists or {})
        total = totals[row["model"], row["currency"]]
        parts = (1, now != row["amount"], row["amount"], now)
        total[:] = [sum(pair) for pair in zip(total, parts, strict=True)]
    return [Rerated(*which, *figures) for which, figures in sorted(totals.items())]


def _rows(organization: int, month: date) -> Iterator[dict[str, Any]]:
    columns = ("model", "currency", "state", "units", "amount", "price_version_id")
    rows = LedgerEntry.objects.for_org(organization).filter(month=month).values(*columns)
    yield from rows.iterator(chunk_size=2_000)


def _amount(row: Mapping[str, Any], lists: Lists) -> int:
    if row["price_version_id"] is None:
        return int(row["amount"])
    price = pricing.version(row["price_version_id"])
    if row["model"] in lists:
        price = replace(price, rates=lists[row["model"]])
    return charge(price, row["units"], free=_is_free(row)).amount


def _is_free(row: Mapping[str, Any]) -> bool:
    failed, cancelled = (row["state"] == state for state in (State.FAILED, State.CANCELLED))
    return failed or (cancelled and not tokens(row["units"], *WRITTEN))
