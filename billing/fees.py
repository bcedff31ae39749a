"""What plans charge: each period's fee and seats, what a change in between adds, what is included.

Rows of the ledger, named after what they are for: written again, they change nothing.
"""

from datetime import UTC, datetime, timedelta
from fractions import Fraction

from billing import adjustments, grants
from billing.adjustments import Adjustment
from billing.allowances import Grant
from billing.models import Account, Fee, LedgerEntry
from billing.months import month_of
from billing.offers import PlanTerms, Subscription
from billing.usage import Extra
from kit import money
from kit.errors import Invalid

State = Subscription.State


def currency_of(organization: int) -> str:
    """Its account's; raises `Invalid` without one."""
    found = Account.objects.for_org(organization).values_list("currency", flat=True).first()
    if found is None:
        raise Invalid("Your organization has no billing account yet. Ask the operator.")
    return found


def in_force(plan: int, currency: str, at: datetime) -> PlanTerms | None:
    """What a plan costs of a moment."""
    rows = PlanTerms.objects.filter(plan=plan, currency=currency, effective_from__lte=at)
    return rows.select_related("plan").order_by("-effective_from").first()


def prorated(row: Subscription, terms: PlanTerms, seats: int, now: datetime) -> int:
    """What the rest of the period costs, by the second."""
    left = _left(row, now, since=row.period_start)
    return money.share(terms.cost(seats), left.numerator, left.denominator)


def allow_more(row: Subscription, now: datetime) -> None:
    """What the plan that holds from `now` on allows for the rest of the period, beyond what is had.

    Each grant of the period counts for the time from its making to the period's end, evenly: so
    whoever changes to and fro never has more than the largest plan allows for a period. Rounded
    down.
    """
    made = Grant.objects.for_org(row.organization_id).filter(
        kind=Grant.Kind.PLAN, expires_at=row.period_end
    )
    had = sum(each.amount * _left(row, now, since=each.created_at) for each in made)
    more = row.terms.allowance * _left(row, now, since=row.period_start) - had
    if more >= 1:
        allow(row, int(more), f"change-{row.changes}", now)


def _left(row: Subscription, now: datetime, *, since: datetime) -> Fraction:
    """How much of the time from `since` to the period's end is yet to come, by the second."""
    second = timedelta(seconds=1)
    whole = max(1, (row.period_end - since) // second)
    return Fraction(max(0, min(whole, (row.period_end - now) // second)), whole)


def charge(row: Subscription) -> None:
    """The fees of the period that begins, and what it allows."""
    at, name, label = row.period_start, row.plan.name, _span(row, row.period_start)
    terms, found = row.terms, []
    if row.state == State.ACTIVE:
        paid = terms.paid_seats(row.seats)
        parts = [(Fee.PLAN, 1, terms.fee), (Fee.SEATS, paid, terms.seat_fee * paid)]
        for fee, units, nanos in parts:
            if nanos:
                extra = Extra(LedgerEntry.Kind.PLAN, name, fee, label, units, nanos)
                found.append(Adjustment(_named(row, f"{at.isoformat()}/{fee}"), at, extra))
    adjustments.book(found, organization=row.organization_id, now=at, month=month_of(at))
    allow(row, terms.allowance, at.isoformat(), at)


def charge_change(row: Subscription, then: PlanTerms, seats: int, now: datetime) -> None:
    """Take back what is left of the period as it was, and charge for it as it will be."""
    span = _span(row, now)
    back, rest = prorated(row, row.terms, row.seats, now), prorated(row, then, seats, now)
    parts = [
        (-back, row.plan.name, row.seats, f"change {row.changes}: unused, {span}"),
        (rest, then.plan.name, seats, f"change {row.changes}: {seats} seats, {span}"),
    ]
    found = [
        Adjustment(
            _named(row, f"change-{row.changes}/{index}"),
            now,
            Extra(LedgerEntry.Kind.PLAN, name, Fee.PRORATION, label, units, nanos),
        )
        for index, (nanos, name, units, label) in enumerate(parts)
        if nanos
    ]
    adjustments.book(found, organization=row.organization_id, now=now, month=month_of(now))


def allow(row: Subscription, amount: int, what: str, now: datetime) -> None:
    if amount:
        grants.give(
            organization=row.organization_id,
            amount=amount,
            reason=f"Included in {row.plan.name}",
            kind=Grant.Kind.PLAN,
            expires_at=row.period_end,
            reference=_named(row, what),
            now=now,
        )


def _named(row: Subscription, what: str) -> str:
    return f"{row.organization_id}/plan/{what}"


def _span(row: Subscription, since: datetime) -> str:
    """From day to day, in UTC, the end's own left to the next."""
    return f"{since.astimezone(UTC):%Y-%m-%d} to {row.period_end.astimezone(UTC):%Y-%m-%d}"
