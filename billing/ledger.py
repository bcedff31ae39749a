"""The ledger: one row a request, written once, in the transaction that records its history."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any
from uuid import UUID

import orjson
from django.db import connection, transaction

from billing import credit, days, grants, partitions
from billing.models import Fee, LedgerEntry, Meter, State
from billing.months import month_after, month_of
from kit.prepared import execute
from kit.redis import pipeline

_ACCOUNTS = """
SELECT organization_id, credit_epoch, currency FROM public.billing_account
WHERE organization_id = ANY(%s::bigint[]) ORDER BY organization_id FOR SHARE
"""
_PERIODS = """
SELECT organization_id, closed_at IS NOT NULL FROM public.billing_period
WHERE organization_id = ANY(%s::bigint[]) AND month = %s::date ORDER BY organization_id FOR SHARE
"""
_MISSING_PERIODS = """
INSERT INTO public.billing_period (organization_id, month)
SELECT organization, %s::date FROM unnest(%s::bigint[]) AS missing (organization)
ORDER BY organization
ON CONFLICT DO NOTHING
"""
_ROWS = """
INSERT INTO public.billing_ledgerentry (
    request, organization_id, key, model, month, state, units, amounts, amount, currency,
    price_version_id, region, label, project, kind, credit_epoch, created_at
)
SELECT request, organization, key, model, month, state, units, amounts, amount, currency,
    price_version, region, label, project, kind, epoch, %s::timestamptz
FROM unnest(
    %s::uuid[], %s::bigint[], %s::text[], %s::text[], %s::date[], %s::text[], %s::jsonb[],
    %s::jsonb[], %s::bigint[], %s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[],
    %s::text[], %s::bigint[]
) AS row (
    request, organization, key, model, month, state, units, amounts, amount, currency,
    price_version, region, label, project, kind, epoch
)
ORDER BY request
ON CONFLICT DO NOTHING
RETURNING request
"""
_EARLIER = """
SELECT request, credit_epoch, month, state FROM public.billing_ledgerentry
WHERE request = ANY(%s::uuid[])
"""


Kind = LedgerEntry.Kind
_METERS = {True: set(map(str, Meter)), False: {*map(str, Meter), *map(str, Fee)}}
_USED = LedgerEntry.USED


@dataclass(frozen=True, slots=True)
class Entry:
    """What a request used and costs, as sealed: units and nanos by meter.

    `epoch` is the credit epoch it reserved in; None for what nobody reserved for. Raises
    ValueError where the parts aren't the whole, or where a failed request costs something.
    """

    request: UUID
    organization: int
    key: str
    model: str
    state: str
    currency: str
    price_version: int | None
    region: str
    units: Mapping[str, int]
    amounts: Mapping[str, int]
    amount: int
    label: str = ""
    project: str = ""
    epoch: int | None = None
    kind: str = Kind.USE

    def __post_init__(self) -> None:
        if sum(self.amounts.values()) != self.amount:
            raise ValueError(f"{self.request}: {self.amounts} do not add up to {self.amount}.")
        if not set(self.amounts) <= set(self.units) <= _METERS[self.kind in _USED]:
            raise ValueError(f"{self.request}: {self.units} and {self.amounts} don't fit meters.")
        if State(self.state) is State.FAILED and self.amount:
            raise ValueError(f"{self.request}: a failed request costs nothing, not {self.amount}.")


@dataclass(frozen=True, slots=True)
class Booked:
    """How a row stands: the credit epoch it was booked in, the month, how the request ended.

    A request that lost its reservation with Redis's data stands as failed, whatever it delivered.
    """

    epoch: int
    month: date
    state: str


class CannotBook(Exception):
    """An entry whose organization has no account in its currency."""


def book(
    entries: Sequence[Entry], *, now: datetime, month: date | None = None
) -> dict[UUID, Booked]:
    """Write the rows that are not there yet, and say where each of `entries` stands.

    Called once in the caller's transaction, on whichever schema. Rows go to `month` (that of
    `now`, UTC, unless said) or the next whose period is open; both it and the account stay locked
    FOR SHARE until the transaction ends, so that neither a closing nor a rebuild can miss them.
    Locks are taken in one order (accounts, then periods by month and organization, then rows), so
    that batches can't block each other. A reservation of an older epoch is held again, or else its
    request is
    booked as failed, at nothing. Raises `CannotBook`.
    """
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("book belongs in its caller's transaction")
    if not entries:
        return {}
    epochs = _lock_accounts(entries)
    entries, retaken = _covered(entries, epochs)
    months = _lock_periods({entry.organization for entry in entries}, month or month_of(now))
    placed = {
        each.request: Booked(epochs[each.organization], months[each.organization], each.state)
        for each in entries
    }
    written = _insert(entries, placed, now)
    uses = [
        each
        for each in {entry.request: entry for entry in entries}.values()
        if each.request in written and each.kind in _USED
    ]
    days.add((_part(each, months[each.organization]) for each in uses), now=now)
    grants.consume(
        (
            grants.Cost(each.request, each.organization, months[each.organization], each.amount)
            for each in uses
        ),
        now=now,
    )
    _let_go([entry for entry in retaken if entry.request not in written])
    return placed | _earlier(placed.keys() - written)


def _part(entry: Entry, month: date) -> tuple[days.Group, days.Part]:
    group = (entry.organization, month, entry.model, entry.key, entry.project)
    requests = int(entry.kind == Kind.USE)
    return group, (requests, entry.amount, entry.units, entry.amounts)


def _covered(
    entries: Sequence[Entry], epochs: Mapping[int, int]
) -> tuple[Sequence[Entry], list[Entry]]:
    """The entries, those that nothing covers any more free; and whose credit was held anew."""
    stale = {each.request: each for each in entries if _is_stale(each, epochs)}
    if not stale:
        return entries, []
    needed = [stale[request] for request in stale.keys() - _earlier(stale).keys()]
    words = credit.hold_again(
        [
            credit.Hold(
                each.organization,
                each.request,
                each.amount,
                epochs[each.organization],
                each.key,
                each.project,
            )
            for each in needed
        ]
    )
    covered = [_free(each) if words.get(each.request) == "lost" else each for each in entries]
    return covered, [each for each in needed if words[each.request] == "taken"]


def _is_stale(entry: Entry, epochs: Mapping[int, int]) -> bool:
    epoch = entry.epoch
    return epoch is not None and entry.amount > 0 and epoch < epochs[entry.organization]


def _free(entry: Entry) -> Entry:
    return replace(entry, state=State.FAILED, amount=0, amounts=dict.fromkeys(entry.amounts, 0))


def _let_go(entries: Sequence[Entry]) -> None:
    """Somebody else booked them meanwhile, and settles for them: our hold would count twice."""

    def scripts(pipe: Any) -> None:
        for each in entries:
            credit.release(pipe, organization=each.organization, request=each.request)

    if entries:
        pipeline(scripts)


def lock_account(organization: int) -> None:
    """Hold the account as booking does, before its periods: nobody rebuilds counters meanwhile."""
    execute(_ACCOUNTS, [[organization]])


def _lock_accounts(entries: Sequence[Entry]) -> dict[int, int]:
    found = execute(_ACCOUNTS, [list({entry.organization for entry in entries})])
    accounts = {row[0]: row[1:] for row in found}
    for entry in entries:
        _, currency = accounts.get(entry.organization, (0, None))
        if entry.currency != currency:
            raise CannotBook(
                f"{entry.request} is charged in {entry.currency}; the account of organization "
                f"{entry.organization} is {f'in {currency}' if currency else 'missing'}."
            )
    return {organization: epoch for organization, (epoch, _) in accounts.items()}


def _lock_periods(organizations: set[int], month: date) -> dict[int, date]:
    found: dict[int, date] = {}
    while organizations:
        closed_or_not = _lock_month(organizations, month)
        if missing := organizations - closed_or_not.keys():
            execute(_MISSING_PERIODS, [month, sorted(missing)])
            closed_or_not |= _lock_month(missing, month)
        found |= {organization: month for organization, shut in closed_or_not.items() if not shut}
        organizations = organizations - found.keys()
        month = month_after(month)
    return found


def _lock_month(organizations: Iterable[int], month: date) -> dict[int, bool]:
    return dict(execute(_PERIODS, [list(organizations), month]).fetchall())


def _insert(entries: Sequence[Entry], placed: Mapping[UUID, Booked], now: datetime) -> set[UUID]:
    rows = [
        (
            entry.request,
            entry.organization,
            entry.key,
            entry.model,
            placed[entry.request].month,
            State(entry.state).value,
            orjson.dumps(entry.units).decode(),
            orjson.dumps(entry.amounts).decode(),
            entry.amount,
            entry.currency,
            entry.price_version,
            entry.region,
            entry.label,
            entry.project,
            entry.kind,
            placed[entry.request].epoch,
        )
        for entry in entries
    ]
    return {row[0] for row in execute(_ROWS, [now, *map(list, zip(*rows, strict=True))])}


def _earlier(requests: Iterable[UUID]) -> dict[UUID, Booked]:
    if not (sought := list(requests)):
        return {}
    return {request: Booked(*where) for request, *where in execute(_EARLIER, [sought])}


def standing(requests: Iterable[UUID]) -> set[UUID]:
    """Which of them have their row already."""
    return set(_earlier(requests))


def make_partitions(now: datetime) -> list[str]:
    """Make the partitions of this month and the next three that are missing; their names."""
    return partitions.make(now)
