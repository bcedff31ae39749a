"""Organizations on plans: begun, changed, renewed, ended. One locked row at a time.

What costs more holds at once, and the rest of the period is charged for it; what costs less begins
with the next period. Each fee is a row of the ledger, named after what it is for, written in the
transaction that moves the subscription: whatever crashes or runs twice, it is charged once. Locks
are taken in one order: the subscription, the account, the month.

Nothing begins while the organization is suspended: its plan pauses where the paid period ends, and
goes on with a whole new period once it is reinstated.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import available_timezones

import structlog
from django.db import transaction
from django.db.models import Count, F, Q

from billing import fees, pauses
from billing.anniversaries import anniversary
from billing.months import month_after
from billing.offers import PlanTerms, Spell, Subscription
from kit.errors import Invalid, Refused
from tenants import audit
from tenants.audit import Actor, Change
from tenants.models import Membership, Organization, Plan

log = structlog.get_logger()

State = Subscription.State
MOST_SEATS = 100_000


class NoSubscription(Refused):
    """Nothing to cancel."""

    status, code = 409, "no_subscription"


@dataclass(frozen=True, slots=True)
class Quote:
    """What choosing a plan comes to: what is charged now, and what each period costs, from when.

    `at_once` says whether it holds now or from `begins_at` on; `trial` that nothing is charged
    before it. Amounts in nanos.
    """

    plan: str
    seats: int
    currency: str
    at_once: bool
    due_now: int
    cost: int
    begins_at: datetime
    trial: bool = False


def offered(*, organization: int, now: datetime) -> list[PlanTerms]:
    """The plans that the organization may choose, in its currency."""
    rows = PlanTerms.objects.filter(
        currency=fees.currency_of(organization), effective_from__lte=now
    )
    latest = {row.plan_id: row for row in rows.select_related("plan").order_by("effective_from")}
    found = [row for row in latest.values() if row.self_service]
    return sorted(found, key=lambda row: (row.fee, row.plan.name))


def quote(
    *, organization: int, plan: str, seats: int | None, now: datetime, operator: bool = False
) -> Quote:
    """What `choose` would do now; changes nothing. Raises what it raises."""
    with transaction.atomic():
        row = _row(organization)
        terms = _terms_named(plan, fees.currency_of(organization), now, operator)
        seats = _seats(row, terms, seats, organization)
        return _quote(row, terms, seats, now)


def choose(
    *,
    organization: int,
    plan: str,
    seats: int | None = None,
    zone: str | None = None,
    now: datetime,
    by: Actor,
    operator: bool = False,
) -> Subscription:
    """Be on a plan, with so many seats: at once if that costs more, else from the next period on.

    Choosing what there is takes back what was to come, a cancellation too. A `zone` holds from the
    next period on, the running one ends as it was begun. Raises `Invalid`; `Suspended` for what
    would be charged at once while the organization is suspended.
    """
    if zone is not None and zone not in available_timezones():
        raise Invalid(f"timezone: {zone!r} is none; write it like Europe/Berlin.", param="timezone")
    with transaction.atomic():
        row = _row(organization)
        if row is not None:
            _roll(row, now)
        terms = _terms_named(plan, fees.currency_of(organization), now, operator)
        seats = _seats(row, terms, seats, organization)
        before = _facts(row)
        if row is not None and row.is_on:
            row.zone = zone or row.zone
        if row is None or not row.is_on:
            pauses.require_reinstated(organization)
            row = _begin(row, organization, terms, seats, zone or "UTC", now)
        elif _quote(row, terms, seats, now).at_once:
            if (row.plan, row.seats) != (terms.plan, seats):
                pauses.require_reinstated(organization)
            _change(row, terms, seats, now)
        else:
            row.next_plan, row.next_seats, row.cancel_at_end = terms.plan, seats, False
            row.save()
        _record("subscription.changed", row, before, by, now)
    return row


def cancel(*, organization: int, now: datetime, by: Actor) -> Subscription:
    """End with the period that is paid; until then nothing changes. Raises `NoSubscription`."""
    with transaction.atomic():
        row = _row(organization)
        if row is not None:
            _roll(row, now)
        if row is None or not row.is_on:
            raise NoSubscription("Your organization is on no plan; there is nothing to cancel.")
        before = _facts(row)
        row.next_plan, row.next_seats, row.cancel_at_end = None, None, True
        row.save()
        _record("subscription.cancelled", row, before, by, now)
    return row


def current(organization: int) -> Subscription | None:
    """As it stands; None where there never was one."""
    rows = Subscription.objects.for_org(organization)
    return rows.select_related("terms__plan", "next_plan").first()


def watch(*, now: datetime) -> int:
    """Renew what is due, and give members who came a seat; how many rows were looked at."""
    rows = Subscription.objects.across_organizations().exclude(state=State.ENDED)
    crowded = rows.annotate(members=Count("organization__memberships")).filter(
        members__gt=F("seats")
    )
    due = {*rows.filter(period_end__lte=now).values_list("organization_id", flat=True)}
    due |= {*crowded.values_list("organization_id", flat=True)}
    for organization in sorted(due):
        try:
            renew(organization=organization, now=now)
        except Exception:
            log.exception("a plan could not be renewed", organization=organization)
    return len(due)


def renew(*, organization: int, now: datetime) -> None:
    """Go on to the period of `now`, and charge for each that has begun; again changes nothing."""
    with transaction.atomic():
        row = _row(organization)
        if row is not None:
            _roll(row, now)
            _seat_everyone(row, now)


def close(*, organization: int, month: date, now: datetime) -> int:
    """Before a month is closed: charge for what began in it; its minimum, in nanos.

    In the transaction that closes the month, before its account is locked. A paused plan does not
    go on in a month that is over.
    """
    row = _row(organization)
    if row is None:
        return 0
    if row.paused_at is None:
        _roll(row, min(now, _begins(month_after(month)) - timedelta(microseconds=1)))
    return minimum(organization=organization, month=month)


def minimum(*, organization: int, month: date) -> int:
    """What a month's use comes to at least: of the plan that it was on from first to last."""
    first, after = _begins(month), _begins(month_after(month))
    spells = Spell.objects.for_org(organization).filter(began_at__lte=first)
    spell = spells.filter(Q(ended_at=None) | Q(ended_at__gte=after)).first()
    if spell is None:
        return 0
    terms = fees.in_force(spell.plan_id, fees.currency_of(organization), first)
    return terms.minimum if terms else 0


def _row(organization: int) -> Subscription | None:
    return Subscription.objects.for_org(organization).select_for_update().first()


def _terms_named(name: str, currency: str, now: datetime, operator: bool) -> PlanTerms:
    plan = Plan.objects.filter(name__iexact=name).first()
    terms = fees.in_force(plan.pk, currency, now) if plan else None
    if terms is None or not (terms.self_service or operator):
        raise Invalid(
            f"plan: {name!r} is none that can be chosen in {currency}; GET /api/v1/plans lists "
            "those that can.",
            param="plan",
        )
    return terms


def _members(organization: int) -> int:
    return Membership.objects.for_org(organization).count()


def _seats(
    row: Subscription | None, terms: PlanTerms, wanted: int | None, organization: int
) -> int:
    members = _members(organization)
    if wanted is None:
        running = row.seats if row is not None and row.is_on else terms.included_seats
        return max(1, members, running)
    if not max(1, members) <= wanted <= MOST_SEATS:
        raise Invalid(
            f"seats: {wanted:,} are not possible; from {max(1, members):,}, so many members there "
            f"are, to {MOST_SEATS:,}.",
            param="seats",
        )
    return wanted


def _quote(row: Subscription | None, terms: PlanTerms, seats: int, now: datetime) -> Quote:
    cost = terms.cost(seats)

    def of(at_once: bool, due: int, begins: datetime, trial: bool = False) -> Quote:
        return Quote(terms.plan.name, seats, terms.currency, at_once, due, cost, begins, trial)

    if row is None or not row.is_on:
        if terms.trial_days and not (row and row.trialed):
            return of(True, 0, now, trial=True)
        return of(True, cost, now)
    if row.state == State.TRIALING:
        return of(True, 0, now, trial=True)
    then = _then(row, terms)
    cost = then.cost(seats)
    if (row.plan, row.seats) == (terms.plan, seats):
        return of(True, 0, now)
    if cost <= row.terms.cost(row.seats):
        return of(False, 0, row.period_end)
    back = fees.prorated(row, row.terms, row.seats, now)
    return of(True, fees.prorated(row, then, seats, now) - back, now)


def _then(row: Subscription, terms: PlanTerms) -> PlanTerms:
    """A plan that goes on goes on under the terms that its period began with."""
    return row.terms if row.plan == terms.plan else terms


def _begin(
    row: Subscription | None,
    organization: int,
    terms: PlanTerms,
    seats: int,
    zone: str,
    now: datetime,
) -> Subscription:
    made = row or Subscription(organization_id=organization, changes=0)
    trial = bool(terms.trial_days) and not made.trialed
    made.terms, made.seats, made.zone = terms, seats, zone
    made.next_plan, made.next_seats, made.cancel_at_end = None, None, False
    made.anchor, made.number, made.period_start = now, 0, now
    if trial:
        made.state, made.trialed = State.TRIALING, True
        made.period_end = now + timedelta(days=terms.trial_days)
    else:
        made.state, made.period_end = State.ACTIVE, anniversary(now, 1, zone)
    made.changes += 1
    made.save()
    _settle_on(made, now)
    fees.charge(made)
    return made


def _change(row: Subscription, terms: PlanTerms, seats: int, now: datetime) -> None:
    """To what costs more (or, in a trial, to anything), with this very period."""
    then = _then(row, terms)
    row.next_plan, row.next_seats, row.cancel_at_end = None, None, False
    if (row.plan, row.seats) != (terms.plan, seats):
        row.changes += 1
        if row.state == State.ACTIVE:
            fees.charge_change(row, then, seats, now)
        before, row.terms, row.seats = row.terms, then, seats
        if before.plan != then.plan:
            _settle_on(row, now)
            fees.allow_more(row, now)
    row.save()


def _roll(row: Subscription, now: datetime) -> None:
    """Into the period of `now`, charging for each on the way."""
    while row.is_on and row.period_end <= now:
        at = row.period_end
        if row.cancel_at_end or pauses.is_leaving(row.organization_id):
            before = _facts(row)
            row.state, row.cancel_at_end, row.paused_at = State.ENDED, False, None
            row.save()
            _settle_on(row, at)
            _record("subscription.ended", row, before, audit.SYSTEM, now)
            return
        if _is_suspended(row, at):
            _pause(row, at, now)
            return
        resumed, row.paused_at = row.paused_at is not None, None
        at = now if resumed else at
        plan, seats = row.next_plan or row.plan, row.next_seats or row.seats
        moved, row.seats = plan != row.plan, max(seats, _members(row.organization_id))
        row.terms = fees.in_force(plan.pk, row.terms.currency, at) or row.terms
        row.next_plan = row.next_seats = None
        if row.state == State.TRIALING or resumed:
            row.state, row.anchor, row.number = State.ACTIVE, at, 0
        else:
            row.number += 1
        row.period_start = at
        row.period_end = anniversary(row.anchor, row.number + 1, row.zone)
        row.save()
        if moved or resumed:
            _settle_on(row, at)
        fees.charge(row)


def _pause(row: Subscription, at: datetime, now: datetime) -> None:
    """No period begins at `at`, and no month's minimum is owed, until it is reinstated."""
    if row.paused_at is None:
        before, row.paused_at = _facts(row), at
        row.save()
        Spell.objects.for_org(row.organization_id).filter(ended_at=None).update(ended_at=at)
        _record("subscription.paused", row, before, audit.SYSTEM, now)


def _is_suspended(row: Subscription, at: datetime) -> bool:
    """Whether it was by `at`; what has begun before a suspension has begun."""
    since = pauses.suspended_at(row.organization_id)
    return since is not None and (row.paused_at is not None or since <= at)


def _seat_everyone(row: Subscription, now: datetime) -> None:
    """Whoever joined has a seat, paid from now on."""
    members = _members(row.organization_id)
    if row.is_on and members > row.seats and pauses.suspended_at(row.organization_id) is None:
        before = _facts(row)
        _change(row, row.terms, members, now)
        _record("subscription.changed", row, before, audit.SYSTEM, now)


def _settle_on(row: Subscription, at: datetime) -> None:
    """The organization is on the plan from `at` on, or on none any more: its limits follow."""
    spells = Spell.objects.for_org(row.organization_id)
    spells.filter(ended_at=None).update(ended_at=at)
    if row.is_on:
        spells.create(organization_id=row.organization_id, plan=row.plan, began_at=at)
    organization = Organization.objects.get(pk=row.organization_id)
    organization.plan = row.plan if row.is_on else None
    organization.save(update_fields=["plan"])


def _begins(month: date) -> datetime:
    return datetime.combine(month, time(), UTC)


def _facts(row: Subscription | None) -> dict[str, object]:
    if row is None:
        return {}
    return {
        "plan": row.plan.name,
        "seats": row.seats,
        "state": str(row.state),
        "next_plan": row.next_plan.name if row.next_plan else None,
        "next_seats": row.next_seats,
        "cancel_at_end": row.cancel_at_end,
        "timezone": row.zone,
        "paused": row.paused_at is not None,
    }


def _record(
    action: str, row: Subscription, before: dict[str, object], by: Actor, now: datetime
) -> None:
    was, now_is = audit.differences(before, _facts(row))
    if now_is:
        change = Change(action, f"plan:{row.plan.name}", was, now_is)
        audit.record(change, by=by, organization=row.organization_id, now=now)
