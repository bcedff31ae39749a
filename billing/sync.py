"""Both sides of the money: what we say of invoices and payments, and what the provider says."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Q

from billing import gateway
from billing.models import Invoice
from billing.receivables import Collection, Payment, PaymentProfile, Refund
from billing.remote import RemoteInvoice, RemoteNote, RemotePayment

_SAME = {
    Invoice.Status.DRAFT: {"draft"},
    Invoice.Status.OPEN: {"draft", "open"},
    Invoice.Status.UNCOLLECTIBLE: {"open", "uncollectible"},
    Invoice.Status.PAID: {"paid"},
    Invoice.Status.VOID: {"void", "draft"},
}


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One thing that is not the same on both sides."""

    organization: str
    subject: str
    ours: str
    theirs: str


def compare(profile: PaymentProfile, *, before: datetime | None = None) -> list[Mismatch]:
    """What differs for one organization; asks the provider, changes nothing.

    `before` leaves out what began after it, there or here: that is on its way to the other side.
    """
    customer, slug = str(profile.customer), profile.organization.slug
    notes = {each.id: each for each in gateway.credit_notes(customer=customer)}
    invoices = {each.id: each for each in gateway.invoices(customer=customer)}
    payments = {each.id: each for each in gateway.payments(customer=customer)}
    waiting = _waiting(profile, before) if before else set()
    found = [
        *_invoices(profile, invoices, waiting),
        *_notes(profile, notes, waiting),
        *_payments(profile, payments, _back(profile, notes), waiting),
    ]
    young = {
        each.id
        for kind in (notes, invoices, payments)
        for each in kind.values()
        if before and each.created >= before.timestamp()
    }
    return [
        Mismatch(slug, subject, ours, theirs)
        for identifier, subject, ours, theirs in found
        if identifier not in young
    ]


_Found = Iterator[tuple[str, str, str, str]]
"""The provider's id, then a `Mismatch` without its organization."""


def _waiting(profile: PaymentProfile, before: datetime) -> set[str]:
    """What stands there for documents that somebody is about to look at, or just has."""
    rows = Collection.objects.for_org(profile.organization_id).exclude(remote=None)
    moved = Q(invoice__moves__at__gte=before) | Q(next_at__lte=before + timedelta(hours=1))
    paid = Payment.objects.for_org(profile.organization_id).filter(settled_at__gte=before)
    remotes = rows.filter(moved).values_list("remote", flat=True)
    asked = Refund.objects.for_org(profile.organization_id).filter(status=Refund.Status.PENDING)
    references = asked.values_list("payment__reference", flat=True)
    return {
        str(each) for each in [*remotes, *references, *paid.values_list("reference", flat=True)]
    }


def _invoices(
    profile: PaymentProfile, theirs: dict[str, RemoteInvoice], waiting: set[str]
) -> _Found:
    rows = Collection.objects.for_org(profile.organization_id).exclude(remote=None)
    ours = {
        str(row.remote): row.invoice
        for row in rows.select_related("invoice")
        if row.invoice.kind == Invoice.Kind.INVOICE
    }
    for identifier in sorted((ours.keys() | theirs.keys()) - waiting):
        invoice, there = ours.get(identifier), theirs.get(identifier)
        if invoice is None or there is None:
            number = str(invoice) if invoice else f"{there.number if there else ''} {identifier}"
            here, said = ("there is" if each else "missing" for each in (invoice, there))
            yield identifier, number, here, said
            continue
        if there.status not in _SAME[Invoice.Status(invoice.status)]:
            yield identifier, f"{invoice} status", invoice.status, there.status
        due = _due(invoice)
        if there.status != "draft" and (there.total, there.currency) != (due, invoice.currency):
            sides = f"{due} {invoice.currency}", f"{there.total} {there.currency}"
            yield identifier, f"{invoice} total", *sides


def _notes(profile: PaymentProfile, theirs: dict[str, RemoteNote], waiting: set[str]) -> _Found:
    rows = Collection.objects.for_org(profile.organization_id).exclude(remote=None)
    ours = {
        str(row.remote): row.invoice
        for row in rows.select_related("invoice")
        if row.invoice.kind == Invoice.Kind.CREDIT_NOTE
    }
    for identifier in sorted((ours.keys() | theirs.keys()) - waiting):
        note, there = ours.get(identifier), theirs.get(identifier)
        here = "no credit note" if note is None else str(-_due(note))
        said = "no credit note" if there is None else str(there.total)
        if here != said:
            yield identifier, str(note or identifier), here, said


def _back(profile: PaymentProfile, notes: dict[str, RemoteNote]) -> dict[str, int]:
    """What credit notes have given back to cards, by the provider's invoice."""
    found: dict[str, int] = defaultdict(int)
    for each in notes.values():
        found[each.invoice] += each.refunded
    rows = Collection.objects.for_org(profile.organization_id).exclude(remote=None)
    return {str(row.remote): found[str(row.remote)] for row in rows}


def _payments(
    profile: PaymentProfile,
    theirs: dict[str, RemotePayment],
    back: dict[str, int],
    waiting: set[str],
) -> _Found:
    rows = Payment.objects.for_org(profile.organization_id).exclude(reference=None)
    rows = rows.select_related("invoice__collection")
    ours = {str(row.reference): row for row in rows}
    paid = {name: each for name, each in theirs.items() if each.status == "succeeded"}
    for name in sorted((ours.keys() | paid.keys()) - waiting):
        row, there = ours.get(name), paid.get(name)
        here = f"{row.amount_minor}" if row else "no payment"
        if row is None and there is not None and there.refunded == there.amount:
            continue
        if row is None or there is None or row.amount_minor != there.amount:
            yield name, name, here, f"{there.amount}" if there else "no payment"
            continue
        if there.disputed and row.status == Payment.Status.SUCCEEDED and gateway.is_disputed(name):
            yield name, f"{name} dispute", row.status, "disputed"
        expected = _given_back(row, back)
        if expected != there.refunded:
            yield name, f"{name} refunded", str(expected), str(there.refunded)


def _given_back(row: Payment, back: dict[str, int]) -> int:
    """Of a top-up what its credit was lowered by; of an invoice what its credit notes gave back."""
    if row.invoice is None or row.invoice.status != Invoice.Status.PAID:
        return row.refunded_minor
    return back.get(str(row.invoice.collection.remote), 0)


def _due(document: Invoice) -> int:
    return gateway.chargeable(document.due_minor, document.currency)
