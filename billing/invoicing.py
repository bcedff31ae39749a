"""Closing a month: its ledger rows become an invoice, once, to the nano."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from datetime import date, datetime

import structlog
from django.db import transaction
from django.db.models import Sum

from billing import adjustments, credit, days, grants, ledger, lifecycle, proof, subscriptions
from billing.days import UsageDay
from billing.lifecycle import PREPAID
from billing.models import Invoice, InvoiceLine, LedgerEntry, Period
from billing.months import month_of
from billing.usage import Extra, Summary, summary
from kit.errors import Refused
from kit.money import NANOS, minor_exponent, show, to_minor

log = structlog.get_logger()

GRANTS = "grants"
"""The line that takes off what gifts and allowances have paid: so much less is taxed."""
OTHERS = "(others)"
MOST_PROJECTS = 40
"""Named on one invoice; those that cost least share a line beyond."""


class MonthStillRunning(Refused):
    """The month has not ended."""

    status, code = 409, "month_still_running"


class MonthNotBegun(Refused):
    """The month lies ahead."""

    status, code = 409, "month_not_begun"


class MonthClosed(Refused):
    """The month has its invoice."""

    status, code = 409, "month_closed"


class NotClosed(Refused):
    """Only a month that is closed is invoiced again."""

    status, code = 409, "month_not_closed"


class NotInvoiceable(Refused):
    """An organization without an account owes nothing in any currency."""

    status, code = 409, "no_billing_account"


class Unbalanced(Exception):
    """A month's lines are not the sum of its rows: a defect; nothing was closed."""


@dataclass(frozen=True, slots=True)
class Line:
    """A model's use of one meter by one project, or what else is charged.

    In nanos and in the currency's minor unit.
    """

    kind: str
    model: str
    meter: str
    project: str
    label: str
    units: int
    nanos: int
    minor: int = 0

    @property
    def what(self) -> tuple[str, str, str, str, str]:
        """What sets it apart from an invoice's other lines."""
        return self.kind, self.model, self.meter, self.project, self.label


@dataclass(frozen=True, slots=True)
class Draft:
    """What an invoice would say now.

    Its lines add up to the net total, and to the subtotal less what grants have paid of it.
    """

    organization: int
    month: date
    currency: str
    lines: tuple[Line, ...]
    subtotal: int
    total_minor: int
    granted: int = 0

    @property
    def prepaid_minor(self) -> int:
        """What top-ups have paid of it."""
        return -sum(line.minor for line in self.lines if line.kind == PREPAID)


def preview(*, organization: int, month: date, now: datetime) -> Draft:
    """A month's bill as it stands; changes nothing.

    Raises `MonthNotBegun`, `MonthClosed` and `NotInvoiceable`.
    """
    _require_begun(month, now)
    period = Period.objects.for_org(organization).filter(month=month).first()
    if period is not None:
        _require_open(period)
    minimum = subscriptions.minimum(organization=organization, month=month)
    found = adjustments.pending(organization=organization, month=month, minimum=minimum)
    return _draft(organization, month, [each.extra for each in found])


def close_month(
    *, organization: int, month: date, now: datetime, early: bool = False, issue: bool = True
) -> Invoice:
    """Close a month for good and make its invoice, in one transaction.

    The invoice is issued at once, unless it shall stay a draft for somebody to look at. Raises
    `MonthStillRunning` unless `early`, after which the rest of the month's usage is booked to the
    next; `MonthNotBegun`; `MonthClosed`; `NotInvoiceable`. Waits for bookings under way: they hold
    the period's row FOR SHARE, and those that come later find it closed.
    """
    _require_begun(month, now)
    if month == month_of(now) and not early:
        raise MonthStillRunning(
            f"{month:%Y-%m} still runs. Look at it with --preview, or close it now with --early: "
            "what is used later is then booked to the next month."
        )
    with transaction.atomic():
        minimum = subscriptions.close(organization=organization, month=month, now=now)
        ledger.lock_account(organization)
        new = Period(organization_id=organization, month=month)
        Period.objects.bulk_create([new], ignore_conflicts=True)
        period = Period.objects.for_org(organization).select_for_update().get(month=month)
        _require_open(period)
        _trust(organization, month)
        adjustments.close(organization=organization, month=month, minimum=minimum, now=now)
        invoice = _write(_draft(organization, month), now)
        period.closed_at = now
        period.save(update_fields=["closed_at"])
        if issue:
            invoice = lifecycle.move(invoice=invoice.pk, to=Invoice.Status.OPEN, now=now)
    return invoice


def invoice_again(
    *,
    organization: int,
    month: date,
    now: datetime,
    issue: bool = True,
    note: str = "",
    by: str = "",
) -> Invoice:
    """Another invoice of a closed month whose last one is void, with the next number.

    Over the same rows of the ledger: the month stays closed. Raises `NotClosed`, and `MonthClosed`
    while an invoice stands.
    """
    with transaction.atomic():
        ledger.lock_account(organization)
        periods = Period.objects.for_org(organization).select_for_update()
        period = periods.filter(month=month).first()
        if period is None or period.closed_at is None:
            raise NotClosed(f"{month:%Y-%m} is open still; close it and it has its invoice.")
        if standing(organization, month) is not None:
            _require_open(period)
        _trust(organization, month)
        invoice = _write(_draft(organization, month), now)
        if issue:
            to = Invoice.Status.OPEN
            invoice = lifecycle.move(invoice=invoice.pk, to=to, now=now, note=note, by=by)
        credit.renew_on_commit(organization)
    return invoice


def standing(organization: int, month: date) -> Invoice | None:
    """A month's invoice, the void ones aside."""
    rows = Invoice.objects.for_org(organization).filter(month=month, kind=Invoice.Kind.INVOICE)
    return rows.exclude(status=Invoice.Status.VOID).first()


def as_draft(invoice: Invoice) -> Draft:
    """What a stored invoice says."""
    return Draft(
        organization=invoice.organization_id,
        month=invoice.month,
        currency=invoice.currency,
        lines=tuple(
            Line(**{each.name: getattr(line, each.name) for each in fields(Line)})
            for line in invoice.lines.all()
        ),
        subtotal=invoice.subtotal,
        total_minor=invoice.total_minor,
        granted=invoice.granted,
    )


def recount(invoice: Invoice) -> Draft:
    """What the ledger says now of a stored invoice's month: the same, or something is wrong.

    Older ones have one line for all grants.
    """
    told_apart = invoice.lines.filter(kind=PREPAID).exists()
    return _draft(invoice.organization_id, invoice.month, tell_apart=told_apart)


def plain(minor: int, currency: str) -> str:
    """An amount in the currency's minor unit, for programs: `12.30`, `-0.05`, `1200`."""
    exponent = minor_exponent(currency)
    digits = f"{abs(minor):0{exponent + 1}d}"
    whole, cents = digits[: len(digits) - exponent], digits[len(digits) - exponent :]
    return f"{'-' if minor < 0 else ''}{whole}" + (f".{cents}" if cents else "")


def shown(minor: int, currency: str) -> str:
    """An amount in the currency's minor unit, for people."""
    return show(minor * NANOS // 10 ** minor_exponent(currency), currency)


def _require_begun(month: date, now: datetime) -> None:
    if month > month_of(now):
        raise MonthNotBegun(f"{month:%Y-%m} has not begun; it is {now:%Y-%m-%d} UTC.")


def _require_open(period: Period) -> None:
    if period.closed_at is not None:
        raise MonthClosed(
            f"{period.month:%Y-%m} was closed on {period.closed_at:%Y-%m-%d at %H:%M} UTC; "
            "its invoice stands, and only once that is void is it invoiced again."
        )


def _trust(organization: int, month: date) -> None:
    """The days' sums come to what the ledger does; where they don't they are summed anew."""
    rows = LedgerEntry.objects.for_org(organization).filter(month=month)
    extras = rows.exclude(kind__in=LedgerEntry.USED).aggregate(sum=Sum("amount", default=0))["sum"]
    exact = int(rows.aggregate(sum=Sum("amount", default=0))["sum"]) - int(extras)
    used = UsageDay.objects.for_org(organization).filter(month=month)
    if exact != int(used.aggregate(sum=Sum("amount", default=0))["sum"]):
        log.error("a month's days are not its ledger", organization=organization, month=str(month))
        days.rebuild(organization, month)


def _draft(
    organization: int, month: date, extras: Iterable[Extra] = (), *, tell_apart: bool = True
) -> Draft:
    """What the ledger says, and `extras` that are not in it yet."""
    used = summary(organization, month)
    if not used.currency:
        raise NotInvoiceable(f"Organization {organization} has no billing account.")
    used = replace(used, extras=(*used.extras, *extras))
    granted = _granted(used, grants.used(organization, month))
    lines = [*_of_use(used), *_of_extras(used)]
    given = min(granted, grants.given(organization, month)) if tell_apart else granted
    for kind, paid in ((GRANTS, given), (PREPAID, granted - given)):
        if paid:
            lines.append(Line(kind, "", kind, "", "", 1, -paid))
    minors = to_minor([line.nanos for line in lines], used.currency)
    lines = [replace(line, minor=minor) for line, minor in zip(lines, minors, strict=True)]
    if sum(line.nanos for line in lines) != used.amount - granted:
        raise Unbalanced(f"{organization}, {month:%Y-%m}: the lines are not the {used.amount} due.")
    return Draft(
        organization, month, used.currency, tuple(lines), used.amount, sum(minors), granted
    )


def _granted(used: Summary, paid: int) -> int:
    """What grants have paid: never more than use comes to, once its tiers are taken off."""
    tiers = sum(extra.nanos for extra in used.extras if extra.kind == LedgerEntry.Kind.TIER)
    return min(paid, max(0, used.used + tiers))


def _of_use(used: Summary) -> list[Line]:
    """By model, meter and project; the projects past `MOST_PROJECTS`, the cheapest, together."""
    costs: dict[str, int] = defaultdict(int)
    for part in used.parts:
        costs[part.project] += part.amount
    ranked = sorted(costs, key=lambda project: (-costs[project], project))
    named = set(ranked if len(ranked) <= MOST_PROJECTS else ranked[: MOST_PROJECTS - 1])
    found: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for part in used.parts:
        project = part.project if part.project in named else OTHERS
        for meter, units in part.units.items():
            if units or part.amounts[meter]:
                sums = found[part.model, meter, project]
                sums[:] = [sums[0] + units, sums[1] + part.amounts[meter]]
    return [
        Line(LedgerEntry.Kind.USE, model, meter, project, "", *sums)
        for (model, meter, project), sums in sorted(found.items())
    ]


def _of_extras(used: Summary) -> list[Line]:
    return [
        Line(each.kind, each.model, each.meter, "", each.label, each.units, each.nanos)
        for each in used.extras
    ]


def _write(draft: Draft, now: datetime) -> Invoice:
    root, rows = proof.root(draft.organization, draft.month)
    invoice = Invoice.objects.create(
        organization_id=draft.organization,
        month=draft.month,
        currency=draft.currency,
        subtotal=draft.subtotal,
        granted=draft.granted,
        total_minor=draft.total_minor,
        prepaid_minor=draft.prepaid_minor,
        closed_at=now,
        merkle_root=root,
        row_count=rows,
        proof_format=proof.FORMAT,
    )
    InvoiceLine.objects.bulk_create(
        InvoiceLine(invoice=invoice, **asdict(line)) for line in draft.lines
    )
    return invoice
