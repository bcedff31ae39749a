"""An invoice's life: the legal moves, its number, its tax, and the notes that correct it.

draft → open → paid
draft, open, uncollectible → void
open → uncollectible → paid
"""

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Sum

from billing import credit, grants
from billing.allowances import Grant
from billing.models import BillingDetails, Invoice, InvoiceLine, InvoiceMove
from billing.receivables import Collection
from billing.tax import tax_for
from kit.errors import Refused
from kit.money import from_minor, show
from tenants.webhooks import events
from tenants.webhooks.events import Happened, Kind

Status = Invoice.Status
_TOLD = {
    Status.OPEN: Kind.INVOICE_ISSUED,
    Status.PAID: Kind.INVOICE_PAID,
    Status.VOID: Kind.INVOICE_VOIDED,
    Status.UNCOLLECTIBLE: Kind.INVOICE_UNCOLLECTIBLE,
}
LEGAL = {
    Status.DRAFT: (Status.OPEN, Status.VOID),
    Status.OPEN: (Status.PAID, Status.VOID, Status.UNCOLLECTIBLE),
    Status.UNCOLLECTIBLE: (Status.PAID, Status.VOID),
    Status.PAID: (),
    Status.VOID: (),
}
PREPAID = "prepaid"
"""The kind of the line that takes off what top-ups have paid."""
CREDITED = "Credited in full by"
"""How the note of a move begins that took an invoice's whole amount off it."""
_SERIES = {Invoice.Kind.INVOICE: "INV", Invoice.Kind.CREDIT_NOTE: "CN"}
_NEXT = """
INSERT INTO billing_invoiceseries AS series (name, last) VALUES (%s, 1)
ON CONFLICT (name) DO UPDATE SET last = series.last + 1 RETURNING last
"""


class IllegalMove(Refused):
    """An invoice cannot go there from where it stands."""

    status, code = 409, "illegal_move"


class NotCreditable(Refused):
    """There is nothing left of the invoice, or it was never issued."""

    status, code = 409, "not_creditable"


def move(*, invoice: int, to: str, now: datetime, note: str = "", by: str = "") -> Invoice:
    """Take an invoice, given by its primary key, one step on; raises `IllegalMove`.

    Opening issues it: tax, parties and the next number are written down, for good. What is paid
    or void is owed no more, and the credit counters learn of it once that is committed. An
    invoice over nothing is paid as soon as it is open.
    """
    with transaction.atomic():
        row = _locked(invoice)
        target = Status(to)
        if target not in LEGAL[Status(row.status)]:
            may = ", ".join(LEGAL[Status(row.status)]) or "nowhere"
            raise IllegalMove(f"{row} is {row.status} and cannot become {to}; it can go: {may}.")
        if target is Status.OPEN:
            _issue(row, now)
        _step(row, target, now, note, by)
        if row.status == Status.OPEN and row.due_minor == 0:
            _step(row, Status.PAID, now, "Nothing is due.", by)
        if target is Status.OPEN and row.status == Status.OPEN:
            Collection.objects.for_org(row.organization_id).get_or_create(
                invoice=row,
                defaults={"organization_id": row.organization_id, "next_at": now},
            )
        if row.status in (Status.PAID, Status.VOID):
            _look_again(row, now)
            credit.renew_on_commit(row.organization_id)
    return row


def credit_note(
    *, invoice: int, reason: str, now: datetime, by: str = "", minor: int | None = None
) -> Invoice:
    """Correct an issued invoice by a document of its own; the invoice stays as it is.

    `minor` is how much is credited, net, in the currency's minor unit: all that is left unless
    said. What is credited of an open invoice is owed no more; once nothing is left, the invoice
    is paid. What is credited of a paid one is to be paid back. With all that is left goes back what
    prepaid credit had paid, as credit. Raises `NotCreditable`.
    """
    with transaction.atomic():
        corrected = _locked(invoice)
        earlier = Invoice.objects.for_org(corrected.organization_id).filter(corrects=corrected)
        sums = earlier.aggregate(
            net=Sum("total_minor", default=0),
            tax=Sum("tax_minor", default=0),
            exact=Sum("subtotal", default=0),
        )
        left = corrected.total_minor + sums["net"]
        minor = left if minor is None else minor
        _require_creditable(corrected, minor, left, noted=earlier.exists())
        note = _note(corrected, minor, left, sums, reason, now)
        _write_lines(note, corrected, is_whole=minor == corrected.total_minor)
        if note.prepaid_minor:
            _return_prepaid(note, corrected, now)
        _step(note, Status.OPEN, now, reason, by)
        _step(note, Status.PAID, now, f"Corrects {corrected}.", by)
        if minor == left and corrected.status in (Status.OPEN, Status.UNCOLLECTIBLE):
            _step(corrected, Status.PAID, now, f"{CREDITED} {note}.", by)
        Collection.objects.create(invoice=note, organization_id=note.organization_id, next_at=now)
        _look_again(corrected, now)
        credit.renew_on_commit(corrected.organization_id)
    return note


def _look_again(row: Invoice, now: datetime) -> None:
    """Whoever collects it has to hear of it."""
    Collection.objects.for_org(row.organization_id).filter(invoice=row).update(next_at=now)


def _locked(invoice: int) -> Invoice:
    return Invoice.objects.across_organizations().select_for_update().get(pk=invoice)


def _step(row: Invoice, to: Status, now: datetime, note: str, by: str) -> None:
    InvoiceMove.objects.create(invoice=row, source=row.status, target=to, at=now, by=by, note=note)
    row.status = to
    row.save()
    if to in _TOLD:
        said = {
            "number": row.number,
            "month": f"{row.month:%Y-%m}",
            "status": row.status,
            "total_minor": row.total_minor,
            "tax_minor": row.tax_minor,
            "currency": row.currency,
        }
        events.tell([Happened(row.organization_id, _TOLD[to], str(row.pk), said)], now=now)


def _issue(row: Invoice, now: datetime) -> None:
    details = BillingDetails.objects.for_org(row.organization_id).first()
    tax = tax_for(details, seller=settings.SELLER["country"], on=now.date())
    row.tax_name, row.tax_rate, row.tax_minor = tax.name, tax.rate, tax.of(row.taxed_minor)
    row.note = tax.note
    row.seller, row.buyer = dict(settings.SELLER), _buyer(row, details)
    row.issued_at = now
    row.due_on = now.date() + timedelta(days=settings.INVOICE_DUE_DAYS)
    row.number = _number(row.kind, now)


def _buyer(row: Invoice, details: BillingDetails | None) -> dict[str, str]:
    if details is None:
        return {"name": row.organization.name, "address": "", "country": "", "vat_id": ""}
    names = ("name", "address", "country", "vat_id")
    return {name: getattr(details, name) for name in names}


def _number(kind: str, now: datetime) -> str:
    """The series' next number; until the commit nobody else gets one, so that none is lost."""
    series = f"{_SERIES[Invoice.Kind(kind)]}-{now:%Y}"
    with connection.cursor() as cursor:
        cursor.execute(_NEXT, [series])
        return f"{series}-{cursor.fetchone()[0]:06d}"


def _return_prepaid(note: Invoice, corrected: Invoice, now: datetime) -> None:
    """What was paid for before is credit again, to the nano, and without an end."""
    paid = corrected.lines.filter(kind=PREPAID).aggregate(sum=Sum("nanos", default=0))["sum"]
    grants.give(
        organization=note.organization_id,
        amount=-int(paid),
        reason=f"Prepaid credit back, {note.number}",
        kind=Grant.Kind.TOP_UP,
        reference=f"note-{note.pk}",
        now=now,
    )


def _require_creditable(corrected: Invoice, minor: int, left: int, *, noted: bool) -> None:
    if corrected.kind != Invoice.Kind.INVOICE or corrected.status in (Status.DRAFT, Status.VOID):
        raise NotCreditable(f"{corrected} is no issued invoice.")
    nothing_but_prepaid = minor == left == 0 and corrected.prepaid_minor and not noted
    if not 0 < minor <= left and not nothing_but_prepaid:
        amounts = [
            show(_nanos(each, corrected.currency), corrected.currency) for each in (minor, left)
        ]
        raise NotCreditable(
            f"{amounts[0]} cannot be credited: {amounts[1]} is left of {corrected}."
        )


def _note(
    corrected: Invoice,
    minor: int,
    left: int,
    sums: dict[str, Any],
    reason: str,
    now: datetime,
) -> Invoice:
    is_last = minor == left
    credited = minor - sums["net"]
    charged = corrected.subtotal - corrected.granted
    exact = charged + sums["exact"] if is_last else _nanos(minor, corrected.currency)
    tax = tax_after(corrected, credited) + sums["tax"]
    return Invoice.objects.create(
        kind=Invoice.Kind.CREDIT_NOTE,
        corrects=corrected,
        organization_id=corrected.organization_id,
        month=corrected.month,
        currency=corrected.currency,
        subtotal=-exact,
        total_minor=-minor,
        prepaid_minor=-corrected.prepaid_minor if is_last else 0,
        tax_name=corrected.tax_name,
        tax_rate=corrected.tax_rate,
        tax_minor=-tax,
        closed_at=now,
        issued_at=now,
        number=_number(Invoice.Kind.CREDIT_NOTE, now),
        note=" ".join(filter(None, [reason, corrected.note])),
        seller=corrected.seller,
        buyer=corrected.buyer,
    )


def tax_after(corrected: Invoice, credited: int) -> int:
    """The tax on what has been credited in all, so that notes over everything sum to its tax."""
    if credited == corrected.total_minor:
        return corrected.tax_minor
    return credited * corrected.tax_minor // corrected.taxed_minor


def _write_lines(note: Invoice, corrected: Invoice, *, is_whole: bool) -> None:
    if not is_whole:
        InvoiceLine.objects.create(
            invoice=note,
            kind="credit",
            model="",
            meter="credit",
            units=1,
            nanos=note.subtotal,
            minor=note.total_minor,
        )
        return
    InvoiceLine.objects.bulk_create(
        InvoiceLine(
            invoice=note,
            kind=line.kind,
            model=line.model,
            meter=line.meter,
            project=line.project,
            label=line.label,
            units=-line.units,
            nanos=-line.nanos,
            minor=-line.minor,
        )
        for line in corrected.lines.all()
    )


def _nanos(minor: int, currency: str) -> int:
    return from_minor(minor, currency)
