"""Both sides of the money: what we say of invoices and payments, and what the provider says."""

from collections.abc import Iterator
from dataclasses import dataclass

from billing import gateway
from billing.models import Invoice
from billing.receivables import Collection, Payment, PaymentProfile
from billing.remote import RemoteInvoice, RemotePayment

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


def compare(profile: PaymentProfile) -> list[Mismatch]:
    """What differs for one organization; asks the provider, changes nothing."""
    slug = profile.organization.slug
    invoices = {each.id: each for each in gateway.invoices(customer=str(profile.customer))}
    payments = {each.id: each for each in gateway.payments(customer=str(profile.customer))}
    found = [*_invoices(profile, invoices), *_payments(profile, payments)]
    return [Mismatch(slug, *each) for each in found]


def _invoices(
    profile: PaymentProfile, theirs: dict[str, RemoteInvoice]
) -> Iterator[tuple[str, str, str]]:
    rows = Collection.objects.for_org(profile.organization_id).exclude(remote=None)
    ours = {
        str(row.remote): row.invoice
        for row in rows.select_related("invoice")
        if row.invoice.kind == Invoice.Kind.INVOICE
    }
    for identifier in sorted(ours.keys() | theirs.keys()):
        invoice, there = ours.get(identifier), theirs.get(identifier)
        if invoice is None or there is None:
            number = str(invoice) if invoice else f"{there.number if there else ''} {identifier}"
            yield number, "there is" if invoice else "missing", "there is" if there else "missing"
            continue
        if there.status not in _SAME[Invoice.Status(invoice.status)]:
            yield f"{invoice} status", invoice.status, there.status
        due = gateway.chargeable(invoice.due_minor, invoice.currency)
        if there.status != "draft" and (there.total, there.currency) != (due, invoice.currency):
            yield (
                f"{invoice} total",
                f"{due} {invoice.currency}",
                f"{there.total} {there.currency}",
            )


def _payments(
    profile: PaymentProfile, theirs: dict[str, RemotePayment]
) -> Iterator[tuple[str, str, str]]:
    rows = Payment.objects.for_org(profile.organization_id).exclude(reference=None)
    ours = {str(row.reference): row for row in rows}
    paid = {name: each for name, each in theirs.items() if each.status == "succeeded"}
    for reference in sorted(ours.keys() | paid.keys()):
        row, there = ours.get(reference), paid.get(reference)
        here = f"{row.amount_minor}" if row else "no payment"
        if row is None or there is None or row.amount_minor != there.amount:
            yield reference, here, f"{there.amount}" if there else "no payment"
        elif there.disputed and row.status == Payment.Status.SUCCEEDED:
            yield f"{reference} dispute", row.status, "disputed"
