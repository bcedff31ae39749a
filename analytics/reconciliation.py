"""Whether history, ledger, counters, invoices and the provider say the same, row by row."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Sum
from psycopg import sql

from billing import adjustments, credit, days, gateway, subscriptions, sync
from billing.allowances import Budget
from billing.invoicing import Draft, as_draft, recount
from billing.models import READ, WRITTEN, Account, Invoice, Meter, Period
from billing.months import month_after, month_of
from billing.receivables import PaymentProfile
from billing.remote import Failed, Rejected, Unanswered
from kit.money import to_minor
from tenants.models import Organization

_UNEQUAL = """
SELECT l.request, h.id IS NULL, array_remove(ARRAY[
    CASE WHEN h.amount <> l.amount THEN format('amount %%s, not %%s', h.amount, l.amount) END,
    CASE WHEN h.state <> l.state THEN format('state %%s, not %%s', h.state, l.state) END,
    CASE WHEN h.model <> l.model THEN format('model %%s, not %%s', h.model, l.model) END,
    CASE WHEN h.key <> l.key THEN format('key %%s, not %%s', h.key, l.key) END,
    CASE WHEN h.project <> l.project
        THEN format('project %%s, not %%s', h.project, l.project) END,
    CASE WHEN h.currency <> l.currency
        THEN format('currency %%s, not %%s', h.currency, l.currency) END,
    CASE WHEN h.prompt_tokens IS DISTINCT FROM {due}
        THEN format('%%s tokens in, not %%s', h.prompt_tokens, {due}) END,
    CASE WHEN l.cached = 0 AND h.completion_tokens IS DISTINCT FROM l.written
        THEN format('%%s tokens out, not %%s', h.completion_tokens, l.written) END
], NULL) AS unequal
FROM (
    SELECT *, {read} AS read, {written} AS written, {cached} AS cached
    FROM public.billing_ledgerentry
    WHERE organization_id = %s AND month = %s AND kind = 'use'
) l LEFT JOIN {history} h ON h.id = l.request
WHERE (h.id IS NULL OR h.amount <> l.amount OR h.state <> l.state OR h.model <> l.model
    OR h.key <> l.key OR h.project <> l.project OR h.currency <> l.currency
    OR h.prompt_tokens IS DISTINCT FROM {due}
    OR l.cached = 0 AND h.completion_tokens IS DISTINCT FROM l.written)
ORDER BY l.request
"""
_DUE = sql.SQL("CASE WHEN l.cached > 0 THEN l.cached - h.completion_tokens ELSE l.read END")
"""What a cached answer read and wrote is counted by one meter."""
_UNBOOKED = """
SELECT h.id FROM {history} h
WHERE h.finished_at >= %s AND h.finished_at < %s AND NOT EXISTS (
    SELECT FROM public.billing_ledgerentry l WHERE l.request = h.id AND l.organization_id = %s
) ORDER BY h.id
"""
_UNSUMMED = """
SELECT request, amount, (SELECT coalesce(sum(value::bigint), 0) FROM jsonb_each_text(amounts))
FROM public.billing_ledgerentry
WHERE organization_id = %s AND month = %s
  AND amount <> (SELECT coalesce(sum(value::bigint), 0) FROM jsonb_each_text(amounts))
ORDER BY request
"""


_ON_ITS_WAY = timedelta(minutes=10)
"""What began within is on its way to the other side yet."""


class Kind(StrEnum):
    """Which two books disagree."""

    HISTORY = "history"
    LEDGER = "ledger"
    USAGE = "usage"
    CREDIT = "credit"
    INVOICE = "invoice"
    PROVIDER = "provider"


@dataclass(frozen=True, slots=True)
class Difference:
    """One row that disagrees: whose, in which books, which row, and what was found."""

    organization: str
    kind: Kind
    subject: str
    found: str


@dataclass(frozen=True, slots=True)
class Report:
    """An organization's month: how many ledger rows were compared, and every difference.

    `unread` says why the provider's side could not be read, if so; the others were compared.
    """

    organization: str
    month: date
    requests: int
    differences: tuple[Difference, ...]
    unread: str = ""


def reconcile(organization: Organization, month: date) -> Report:
    """Compare the five books of a month, and the provider's; changes nothing.

    Bookings may go on meanwhile: each comparison reads both its sides at one moment, and the
    account is locked while the counters are compared. The counters are not of a month: they
    are compared with all that is owed; so is the provider, with all that it ever took.
    """
    unread, provider = "", list[tuple[str, str]]()
    try:
        provider = list(_provider(organization))
    except (Unanswered, Failed, Rejected) as error:
        unread = f"The payment provider could not be asked: {error}"
    found = [
        Difference(organization.slug, kind, subject, what)
        for kind, rows in (
            (Kind.HISTORY, _history(organization, month)),
            (Kind.LEDGER, _ledger(organization, month)),
            (Kind.USAGE, days.differing(organization.pk, month)),
            (Kind.CREDIT, _credit(organization)),
            (Kind.INVOICE, _invoices(organization, month)),
            (Kind.PROVIDER, provider),
        )
        for subject, what in rows
    ]
    return Report(organization.slug, month, _requests(organization, month), tuple(found), unread)


def _provider(organization: Organization) -> Iterator[tuple[str, str]]:
    """Invoices, credit notes, payments and refunds, as both sides have them."""
    profile = PaymentProfile.objects.for_org(organization).exclude(customer=None).first()
    if profile is None or not gateway.enabled():
        return
    for each in sync.compare(profile, before=datetime.now(UTC) - _ON_ITS_WAY):
        yield each.subject, f"{each.ours}, there {each.theirs}"


def _history(organization: Organization, month: date) -> Iterator[tuple[str, str]]:
    table = sql.Identifier(organization.schema_name, "inference_request")
    first, after = (datetime.combine(each, time(), UTC) for each in (month, month_after(month)))
    for request, is_missing, unequal in _rows(_of(_UNEQUAL, table), [organization.pk, month]):
        yield str(request), "in the ledger, not in history" if is_missing else "; ".join(unequal)
    for (request,) in _rows(_of(_UNBOOKED, table), [first, after, organization.pk]):
        yield str(request), "in history, not in the ledger"


def _ledger(organization: Organization, month: date) -> Iterator[tuple[str, str]]:
    for request, amount, parts in _rows(_UNSUMMED, [organization.pk, month]):
        yield str(request), f"amount {amount}, its parts come to {parts}"
    if Period.objects.for_org(organization).filter(month=month).exclude(closed_at=None).exists():
        least = subscriptions.minimum(organization=organization.pk, month=month)
        yield from adjustments.differing(organization=organization.pk, month=month, minimum=least)


def _credit(organization: Organization) -> Iterator[tuple[str, str]]:
    with transaction.atomic():
        account = Account.objects.for_org(organization).select_for_update().first()
        counters = credit.counters(organization.pk) if account else None
        if account is None or counters is None or counters.epoch != account.credit_epoch:
            return
        limit, due = credit.sums(account, now=datetime.now(UTC))
        due -= _unsettled(organization, counters)
        budgets = _budgets(organization, counters)
    for name, ours, theirs in (
        ("spent", counters.spent, due),
        ("reserved", counters.reserved, sum(counters.held.values())),
        ("limit", counters.limit, limit),
        ("currency", counters.currency, account.currency),
        *budgets,
    ):
        if ours != theirs:
            yield name, f"{ours}, not {theirs}"


def _budgets(organization: Organization, counters: credit.Counters) -> list[tuple[str, int, int]]:
    """What each budget has spent there, and what the ledger says, less what is not settled."""
    now, held = datetime.now(UTC), list(counters.held)
    found = []
    for budget in Budget.objects.for_org(organization).filter(pk__in=counters.budgets):
        awaited = budget.rows().filter(
            request__in=held, month=month_of(now), credit_epoch__gte=counters.epoch
        )
        to_come = int(awaited.aggregate(sum=Sum("amount", default=0))["sum"])
        due = credit.spent_of(budget, now=now) - to_come
        found.append((f"budget {budget.named}", counters.budgets[budget.pk][0], due))
    return found


def _unsettled(organization: Organization, counters: credit.Counters) -> int:
    """What is booked and not yet counted as spent: its hold still stands."""
    booked = (
        "SELECT coalesce(sum(amount), 0) FROM public.billing_ledgerentry"
        " WHERE request = ANY(%s) AND organization_id = %s AND credit_epoch >= %s"
    )
    held: list[UUID] = list(counters.held)
    ((amount,),) = _rows(booked, [held, organization.pk, counters.epoch])
    return int(amount)


def _invoices(organization: Organization, month: date) -> Iterator[tuple[str, str]]:
    period = Period.objects.for_org(organization).filter(month=month).first()
    is_closed = period is not None and period.closed_at is not None
    invoices = Invoice.objects.for_org(organization).filter(kind=Invoice.Kind.INVOICE)
    invoice = invoices.filter(month=month).order_by("-pk").first()
    if invoice is None:
        if is_closed:
            yield f"{month:%Y-%m}", "closed without an invoice"
        return
    if not is_closed:
        yield str(invoice.pk), "an invoice of a month that is open"
        return
    yield from _lines(invoice.pk, as_draft(invoice), recount(invoice))


def _lines(invoice: int, said: Draft, due: Draft) -> Iterator[tuple[str, str]]:
    if said.subtotal != due.subtotal:
        yield str(invoice), f"subtotal {said.subtotal}, the ledger's rows come to {due.subtotal}"
    if said.currency != due.currency:
        yield str(invoice), f"in {said.currency}, the account is in {due.currency}"
    ours, theirs = _sums(said), _sums(due)
    for model, meter in sorted(ours.keys() | theirs.keys()):
        line, rows = (side.get((model, meter), (0, 0)) for side in (ours, theirs))
        if line != rows:
            yield (
                f"{invoice} {model} {meter}",
                (f"{line[0]} units for {line[1]}, the ledger has {rows[0]} for {rows[1]}"),
            )
    minors = [line.minor for line in said.lines]
    if minors != to_minor([line.nanos for line in said.lines], said.currency) or (
        sum(minors) != said.total_minor
    ):
        yield str(invoice), f"lines round to {sum(minors)}, the total is {said.total_minor}"


def _sums(draft: Draft) -> dict[tuple[str, str], tuple[int, int]]:
    """Units and nanos by model and meter, of all projects."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for line in draft.lines:
        units, nanos = found.get((line.model, line.meter), (0, 0))
        found[line.model, line.meter] = units + line.units, nanos + line.nanos
    return found


def _requests(organization: Organization, month: date) -> int:
    counted = (
        "SELECT count(*) FROM public.billing_ledgerentry WHERE organization_id = %s AND month = %s"
    )
    ((count,),) = _rows(counted, [organization.pk, month])
    return int(count)


def _of(template: str, history: sql.Identifier) -> sql.Composed:
    return sql.SQL(template).format(
        history=history,
        read=_units(READ),
        written=_units(WRITTEN),
        cached=_units([Meter.RESPONSE_CACHE_TOKENS]),
        due=_DUE,
    )


def _units(meters: Iterable[Meter]) -> sql.Composed:
    """What a row counts by these meters."""
    each = sql.SQL("coalesce((units->>{})::bigint, 0)")
    return sql.SQL(" + ").join(each.format(sql.Literal(meter.value)) for meter in meters)


def _rows(statement: Any, values: list[Any]) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return list(cursor.fetchall())
