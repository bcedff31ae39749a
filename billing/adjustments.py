"""Rows of the ledger that no request wrote: what tiers take off a month, minimums, plans' fees.

Each has an identifier made of what it is for, so that booking it again changes nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import Sum

from billing import credit, grants, ledger, pricing
from billing.ledger import Entry, Kind
from billing.models import PART_OF, WRITTEN, Account, Fee, LedgerEntry, Meter, State
from billing.months import month_after
from billing.pricing import Price
from billing.tiers import Tiers
from billing.usage import Extra
from kit.ids import named_id

_PRICED = """
SELECT model, price_version_id, {sums} FROM public.billing_ledgerentry
WHERE organization_id = %s AND month = %s AND kind IN ('use', 'meter')
  AND price_version_id = ANY(%s) AND state <> 'failed'
  AND NOT (state = 'cancelled' AND {written} = 0)
GROUP BY model, price_version_id
"""
_WRITTEN = " + ".join(f"coalesce((units->>'{meter}')::bigint, 0)" for meter in WRITTEN)
"""What was free is counted in no tier: failures, and what was cancelled before its first token."""


@dataclass(frozen=True, slots=True)
class Adjustment:
    """An amount in nanos to be booked once a `name`: what it is of, and the moment it is for."""

    name: str
    at: datetime
    extra: Extra


def book(
    adjustments: Sequence[Adjustment], *, organization: int, now: datetime, month: date
) -> list[UUID]:
    """Write those that are not there yet, in the caller's transaction; their identifiers.

    To `month`, or the next that is open. The counters learn of it once that is committed.
    """
    if not adjustments:
        return []
    currency = Account.objects.for_org(organization).values_list("currency", flat=True).get()
    entries = [_entry(each, organization, currency) for each in adjustments]
    ledger.book(entries, now=now, month=month)
    credit.renew_on_commit(organization)
    return [each.request for each in entries]


def close(*, organization: int, month: date, minimum: int, now: datetime) -> None:
    """Write what the end of a month adds and takes off, in the transaction that closes it."""
    due = pending(organization=organization, month=month, minimum=minimum)
    written = book(due, organization=organization, now=now, month=month)
    if written:
        grants.give_back(organization=organization, month=month, row=written[0])


def pending(*, organization: int, month: date, minimum: int) -> list[Adjustment]:
    """What closing the month now would write: what tiers change, then what a minimum adds."""
    last = datetime.combine(month_after(month), time(), UTC) - timedelta(milliseconds=1)
    found = [
        Adjustment(f"{organization}/{month}/tier/{extra.model}/{extra.meter}", last, extra)
        for extra in of_tiers(organization, month)
    ]
    used = grants.usage(organization, month) + sum(each.extra.nanos for each in found)
    if used < minimum:
        extra = Extra(Kind.MINIMUM, "", Fee.MINIMUM, "", 1, minimum - used)
        found.append(Adjustment(f"{organization}/{month}/minimum", last, extra))
    return found


def booked_tiers(organization: int, month: date) -> dict[tuple[str, str], int]:
    """What tiers changed when the month closed, by model and meter."""
    rows = LedgerEntry.objects.for_org(organization).filter(month=month, kind=Kind.TIER)
    found: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        for meter, nanos in row.amounts.items():
            found[row.model, meter] += nanos
    return found


def differing(*, organization: int, month: date, minimum: int) -> list[tuple[str, str]]:
    """Where a closed month's tiers and minimum are not what its units come to."""
    booked = booked_tiers(organization, month)
    due = {(each.model, each.meter): each.nanos for each in of_tiers(organization, month)}
    found = [
        (f"tiers {model} {meter}", booked.get((model, meter), 0), due.get((model, meter), 0))
        for model, meter in sorted(booked.keys() | due.keys())
    ]
    rows = LedgerEntry.objects.for_org(organization).filter(month=month, kind=Kind.MINIMUM)
    added = int(rows.aggregate(sum=Sum("amount", default=0))["sum"])
    found.append(("minimum", added, max(0, minimum - grants.usage(organization, month))))
    return [
        (what, f"{ours}, it comes to {wanted}") for what, ours, wanted in found if ours != wanted
    ]


def of_tiers(organization: int, month: date) -> Iterator[Extra]:
    """Of each model and meter, what the tiers of the price lists it was used under change."""
    rows = _priced(organization, month, pricing.tiered())
    for (model, meter), uses in sorted(rows.items()):
        if change := tiered(uses):
            yield Extra(Kind.TIER, model, meter, "", 0, change)


def tiered(uses: Iterable[tuple[Tiers | None, int, int]]) -> int:
    """What tiers change of units that were booked at so many nanos, price list by price list.

    The month's units go on counting from one price list to the next that replaces it.
    """
    start = change = 0
    for tiers, units, nanos in uses:
        change += tiers.between(start, units) - nanos if tiers else 0
        start += units
    return change


def _priced(
    organization: int, month: date, versions: Sequence[Price]
) -> dict[tuple[str, str], list[tuple[Tiers | None, int, int]]]:
    """By model and meter: the tiers, units and nanos of each price list, in their order."""
    if not versions:
        return {}
    tiered = {Meter(meter) for each in versions for meter in each.tiers}
    meters = sorted(tiered | {part for part, whole in PART_OF.items() if whole in tiered})
    columns = [f"({what}->>'{meter}')::bigint" for meter in meters for what in ("units", "amounts")]
    sums = [f"sum({each})" for each in columns]
    statement = _PRICED.format(sums=", ".join(sums), written=_WRITTEN)
    with connection.cursor() as cursor:
        cursor.execute(statement, [organization, month, [each.version for each in versions]])
        rows = {row[1]: row for row in cursor.fetchall()}
    found = defaultdict(list)
    for price in versions:
        if (row := rows.get(price.version)) is not None:
            sums_of: dict[str, list[int]] = defaultdict(lambda: [0, 0])
            for meter, units, nanos in zip(meters, row[2::2], row[3::2], strict=True):
                sum_of = sums_of[pricing.counts_as(price, meter)]
                sum_of[:] = [sum_of[0] + int(units or 0), sum_of[1] + int(nanos or 0)]
            for name, (units, nanos) in sums_of.items():
                found[row[0], name].append((price.tiers.get(name), units, nanos))
    return found


def _entry(each: Adjustment, organization: int, currency: str) -> Entry:
    extra = each.extra
    return Entry(
        request=named_id(each.at, f"adjustment/{each.name}"),
        organization=organization,
        key="",
        model=extra.model,
        state=State.FINISHED,
        currency=currency,
        price_version=None,
        region=settings.REGION,
        units={str(extra.meter): extra.units},
        amounts={str(extra.meter): extra.nanos},
        amount=extra.nanos,
        label=extra.label,
        kind=extra.kind,
    )
