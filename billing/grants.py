"""Prepaid and given credit: added with a reason, used up as requests are booked."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q, QuerySet, Sum

from billing import credit
from billing.allowances import Grant, GrantUse
from billing.days import UsageDay
from billing.models import LedgerEntry, Period
from kit.errors import Invalid
from kit.ids import named_id
from kit.prepared import execute

_USABLE = """
SELECT id, organization_id, remaining, expires_at FROM public.billing_grant
WHERE organization_id = ANY(%s::bigint[]) AND remaining > 0
ORDER BY organization_id, expires_at NULLS LAST, id FOR UPDATE
"""
_USE = """
WITH used AS (
    INSERT INTO public.billing_grantuse (grant_id, organization_id, request, month, amount)
    SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::uuid[], %s::date[], %s::bigint[])
    RETURNING grant_id, amount
)
UPDATE public.billing_grant SET remaining = remaining - total
FROM (SELECT grant_id, sum(amount) AS total FROM used GROUP BY grant_id) sums
WHERE id = grant_id
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """A row of the ledger that wants paying: nanos, booked to a month."""

    request: UUID
    organization: int
    month: date
    amount: int


def give(
    *,
    organization: int,
    amount: int,
    reason: str,
    now: datetime,
    kind: str = Grant.Kind.GIFT,
    expires_at: datetime | None = None,
    reference: str | None = None,
) -> Grant:
    """Add credit of `amount` nanos; again with the same `reference` changes nothing.

    The counters learn of it once that is committed. Raises `Invalid`.
    """
    if amount <= 0:
        raise Invalid(f"amount: {amount} nanos is nothing to give.", param="amount")
    if expires_at is not None and expires_at <= now:
        raise Invalid("expires_at: that is over already.", param="expires_at")
    grant = Grant(
        organization_id=organization,
        kind=kind,
        amount=amount,
        remaining=amount,
        expires_at=expires_at,
        reason=reason,
        reference=reference,
        created_at=now,
    )
    with transaction.atomic():
        if reference is None:
            grant.save()
        else:
            Grant.objects.bulk_create([grant], ignore_conflicts=True)
            grant = Grant.objects.for_org(organization).get(reference=reference)
        credit.renew_on_commit(organization)
    return grant


def consume(costs: Iterable[Cost], *, now: datetime) -> None:
    """Pay for new rows from what their organizations have, in the transaction that books them.

    A grant pays for requests that were made before its end, also when it has ended since; then
    the counters, which had let go of it, are renewed.
    """
    wanted = defaultdict(list)
    for cost in costs:
        if cost.amount > 0:
            wanted[cost.organization].append(cost)
    if not wanted:
        return
    usable = execute(_USABLE, [list(wanted)]).fetchall()
    uses = [use for row in _by_organization(usable).items() for use in _paid(*row, wanted)]
    if not uses:
        return
    execute(_USE, list(map(list, zip(*uses, strict=True))))
    ended = {row[0] for row in usable if row[3] is not None and row[3] <= now}
    for organization in {use[1] for use in uses if use[0] in ended}:
        credit.renew_on_commit(organization)


def used(organization: int, month: date) -> int:
    """What grants have paid of a month, in nanos."""
    return _sum(GrantUse.objects.for_org(organization).filter(month=month))


def given(organization: int, month: date) -> int:
    """What of it was a gift or a plan's allowance, and not paid for before."""
    rows = GrantUse.objects.for_org(organization).filter(month=month)
    return _sum(rows.exclude(grant__kind=Grant.Kind.TOP_UP))


def _sum(rows: QuerySet[GrantUse]) -> int:
    return int(rows.aggregate(sum=Sum("amount", default=0))["sum"])


def usage(organization: int, month: date) -> int:
    """What grants may pay for in a month: its requests, and what tiers take off; in nanos."""
    used = UsageDay.objects.for_org(organization).filter(month=month)
    extras = LedgerEntry.objects.for_org(organization).filter(month=month)
    tiers = extras.exclude(kind=LedgerEntry.Kind.USE).filter(kind=LedgerEntry.Kind.TIER)
    return sum(int(rows.aggregate(sum=Sum("amount", default=0))["sum"]) for rows in (used, tiers))


def give_back(*, organization: int, month: date, row: UUID) -> None:
    """Return to grants what they paid of a month beyond what it came to, on behalf of a `row`.

    In the transaction that closes the month. What was used last is given back first.
    """
    excess = used(organization, month) - max(0, usage(organization, month))
    if excess <= 0:
        return
    uses = GrantUse.objects.for_org(organization).filter(month=month).values("grant")
    paid = dict(uses.annotate(sum=Sum("amount")).values_list("grant", "sum"))
    rows = Grant.objects.for_org(organization).filter(pk__in=paid).select_for_update()
    for grant in rows.order_by(F("expires_at").desc(nulls_first=True), "-pk"):
        part = min(excess, int(paid[grant.pk]))
        if part:
            GrantUse.objects.create(
                grant=grant,
                organization_id=organization,
                request=row,
                month=month,
                amount=-part,
            )
            grant.remaining += part
            grant.save(update_fields=["remaining"])
            excess -= part


def halt(grant: int, *, now: datetime) -> None:
    """It pays for no request from now on, until `resume`; the counters learn of it."""
    _end(grant, now)


def resume(grant: int) -> None:
    """It pays again, without an end, as what was paid for does."""
    _end(grant, None)


def lose(grant: int, *, now: datetime) -> int:
    """It was not paid for after all: it is credit no more.

    What it paid in open months is owed again; the nanos that are. What it paid in closed months
    stands on their invoices.
    """
    with transaction.atomic():
        row = Grant.objects.across_organizations().select_for_update().get(pk=grant)
        owed = _unpay(row, row.amount, now, "lost")
        _end(grant, now)
    return owed


def take_back(grant: int, *, nanos: int, what: str, now: datetime) -> int:
    """So many nanos of it are credit no more, on behalf of `what`; how many could be taken.

    What is unspent goes first; for the rest, what it paid in open months is owed again. What it
    paid in closed months stands on their invoices.
    """
    with transaction.atomic():
        row = Grant.objects.across_organizations().select_for_update().get(pk=grant)
        _unpay(row, max(0, nanos - row.remaining), now, what)
        gone = min(nanos, row.remaining)
        row.amount, row.remaining = row.amount - gone, row.remaining - gone
        row.save(update_fields=["amount", "remaining"])
        credit.renew_on_commit(row.organization_id)
    return gone


def put_back(grant: int, *, nanos: int, what: str, taken_at: datetime) -> None:
    """What was taken back then on behalf of `what` is credit again: nobody got it.

    In months that are open still it pays again for what it had paid.
    """
    with transaction.atomic():
        row = Grant.objects.across_organizations().select_for_update().get(pk=grant)
        row.amount, row.remaining = row.amount + nanos, row.remaining + nanos
        for use in list(_open_uses(row).filter(amount__lt=0)):
            if use.request == _taken(row, use.month, what, taken_at):
                named = named_id(taken_at, f"grant/{row.pk}/put-back/{use.month}/{what}")
                _use_of(row, named, use.month, -use.amount)
                row.remaining += use.amount
        row.save(update_fields=["amount", "remaining"])
        credit.renew_on_commit(row.organization_id)


def _open_uses(row: Grant) -> QuerySet[GrantUse]:
    closed = Period.objects.for_org(row.organization_id).exclude(closed_at=None)
    uses = GrantUse.objects.for_org(row.organization_id).filter(grant=row)
    return uses.exclude(month__in=closed.values("month"))


def _unpay(row: Grant, most: int, now: datetime, what: str) -> int:
    """Have what the grant paid in open months owed again, up to so many nanos, and left of it."""
    uses = _open_uses(row).order_by("-month")
    paid = uses.values_list("month").annotate(Sum("amount")).filter(amount__sum__gt=0)
    owed = 0
    for month, nanos in paid:
        part = min(int(nanos), most - owed)
        if part > 0:
            _use_of(row, _taken(row, month, what, now), month, -part)
            owed += part
    row.remaining += owed
    row.save(update_fields=["remaining"])
    return owed


def _taken(row: Grant, month: date, what: str, at: datetime) -> UUID:
    return named_id(at, f"grant/{row.pk}/taken-back/{month}/{what}")


def _use_of(row: Grant, request: UUID, month: date, amount: int) -> None:
    GrantUse.objects.create(
        grant=row,
        organization_id=row.organization_id,
        request=request,
        month=month,
        amount=amount,
    )


def _end(grant: int, at: datetime | None) -> None:
    """The grant's own end, or an earlier one."""
    with transaction.atomic():
        row = Grant.objects.across_organizations().select_for_update().get(pk=grant)
        if at is None or row.expires_at is None or row.expires_at > at:
            row.expires_at = at
            row.save(update_fields=["expires_at"])
            credit.renew_on_commit(row.organization_id)


def left(organization: int, *, now: datetime) -> int:
    """What is left of the grants that are good now, in nanos."""
    rows = good(organization, now=now)
    return sum(grant.remaining for grant in rows)


def good(organization: int, *, now: datetime) -> list[Grant]:
    """The grants that are good now, in the order they are used."""
    rows = Grant.objects.for_org(organization)
    rows = rows.filter(Q(expires_at=None) | Q(expires_at__gt=now))
    return sorted(rows, key=lambda each: (each.expires_at is None, each.expires_at or now, each.pk))


_Row = tuple[int, int, int, datetime | None]
_Use = tuple[int, int, UUID, date, int]


def _by_organization(rows: Iterable[_Row]) -> Mapping[int, list[_Row]]:
    found = defaultdict(list)
    for row in rows:
        found[row[1]].append(row)
    return found


def _paid(organization: int, rows: list[_Row], wanted: Mapping[int, list[Cost]]) -> list[_Use]:
    """Each cost from the first grants that cover its moment."""
    left_of = {row[0]: row[2] for row in rows}
    uses = []
    for cost in sorted(wanted[organization], key=lambda each: each.request):
        due, made = cost.amount, made_at(cost.request)
        for grant, _, _, expires_at in rows:
            part = min(due, left_of[grant])
            if part and (expires_at is None or made < expires_at):
                uses.append((grant, organization, cost.request, cost.month, part))
                left_of[grant] -= part
                due -= part
    return uses


def made_at(request: UUID) -> datetime:
    """When a request came, by its own id (RFC 9562's version 7), to the millisecond."""
    return datetime.fromtimestamp((request.int >> 80) / 1000, UTC)
