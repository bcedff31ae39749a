"""Our documents as the payment provider's: made there once, line by line, whatever breaks off."""

from datetime import datetime

from billing import gateway
from billing.documents import described
from billing.lifecycle import CREDITED
from billing.models import Invoice
from billing.receivables import Collection, Payment, PaymentProfile
from billing.remote import Rejected, RemoteInvoice

_MOST_ITEMS = 240
"""Of our lines; tax and rounding come on top."""
_OTHERS = "line-others"
_TAX = "tax"
_ROUNDING = "rounding"


def invoice(row: Collection, profile: PaymentProfile, *, now: datetime) -> RemoteInvoice:
    """The invoice there, finalized; what an earlier try has left is found and gone on with.

    Raises what `gateway` raises, and `Rejected` where it says something else than ours.
    """
    remote = _found_or_made(row, profile, now)
    if remote.status != "draft":
        return remote
    document = row.invoice
    for name, minor, description in _lines(document):
        if name not in remote.lines:
            gateway.add_item(
                customer=str(profile.customer),
                invoice=remote.id,
                minor=minor,
                currency=document.currency,
                description=description,
                line=name,
                key=f"invoice-{document.pk}-{name}-{row.round}",
            )
    total, due = gateway.invoice(remote.id).total, _due(document)
    if total != due:
        raise Rejected(f"{document}: {total} there, {due} here; it is not finalized.")
    return gateway.finalize(remote.id, key=f"invoice-{document.pk}-finalize-{row.round}")


def note(document: Invoice, remote: RemoteInvoice, *, round: int) -> None:  # noqa: A002
    """A credit note there, once: less to pay, or the money back where a card had paid."""
    row = Collection.objects.for_org(document.organization_id).get(invoice=document)
    if row.remote or remote.status == "void":
        return
    minor = gateway.chargeable(-document.due_minor, document.currency)
    ours = str(document.pk)
    known = (each.id for each in gateway.credit_notes(invoice=remote.id) if each.note == ours)
    made = next(known, "") or gateway.credit_note(
        invoice=remote.id,
        minor=minor,
        currency=document.currency,
        how=_how(document, remote),
        note=ours,
        memo=document.note,
        key=f"note-{document.pk}-{round}-{remote.status}",
    )
    row.remote = made
    row.save(update_fields=["remote"])


def close(row: Collection) -> None:
    """Have theirs end as ours did; a charge for what is owed no more goes back."""
    remote = gateway.invoice(str(row.remote))
    document = row.invoice
    for each in document.credit_notes.for_org(document.organization_id):
        if remote.status != "draft":
            note(each, remote, round=row.round)
    remote = gateway.invoice(remote.id)
    key = f"invoice-{document.pk}-close-{row.round}"
    if remote.status == "open" and document.status == Invoice.Status.PAID:
        gateway.note_paid(remote.id, key=key)
    elif remote.status == "open":
        gateway.void(remote.id, key=key)
    elif remote.status == "paid" and not _is_by_card(document):
        _give_back(document, remote, key)


def _found_or_made(row: Collection, profile: PaymentProfile, now: datetime) -> RemoteInvoice:
    if row.remote:
        return gateway.invoice(row.remote)
    document, customer = row.invoice, str(profile.customer)
    left = _left_behind(row, customer) if row.started_at else None
    if row.started_at is None:
        row.started_at = now
        row.save(update_fields=["started_at"])
    remote = left or gateway.create_invoice(
        customer=customer,
        currency=document.currency,
        number=str(document.number),
        invoice=str(document.pk),
        key=f"invoice-{document.pk}-{row.round}",
    )
    row.remote = remote.id
    row.save(update_fields=["remote"])
    return gateway.invoice(remote.id)


def _left_behind(row: Collection, customer: str) -> RemoteInvoice | None:
    """What a run made that died before it could write its id down."""
    ours = str(row.invoice_id)
    return next(
        (each for each in gateway.invoices(customer=customer) if each.invoice == ours), None
    )


def _lines(document: Invoice) -> list[tuple[str, int, str]]:
    """Names, minor units and descriptions that sum to what is charged.

    An invoice there has at most 250 items: of a longer one the smallest amounts share an item.
    """
    ranked = sorted(document.lines.all(), key=lambda line: (-abs(line.minor), line.pk))
    named, others = ranked, ranked[:0]
    if len(ranked) > _MOST_ITEMS:
        named, others = ranked[: _MOST_ITEMS - 1], ranked[_MOST_ITEMS - 1 :]
    named.sort(key=lambda line: line.pk)
    lines = [(f"line-{line.pk}", line.minor, described(line)) for line in named]
    if others:
        rest = sum(line.minor for line in others)
        lines.append((_OTHERS, rest, f"{len(others)} more lines of {document}"))
    if document.tax_minor:
        lines.append((_TAX, document.tax_minor, document.tax_name))
    rounded = _due(document) - document.due_minor
    return [*lines, (_ROUNDING, rounded, "Rounding")] if rounded else lines


def _due(document: Invoice) -> int:
    return gateway.chargeable(document.due_minor, document.currency)


def _how(document: Invoice, remote: RemoteInvoice) -> str:
    if remote.status != "paid":
        return ""
    return "refund_amount" if gateway.payment_of(remote.id) else "out_of_band_amount"


def _is_by_card(document: Invoice) -> bool:
    """Whether ours was settled by the charge there (or by credit notes, which were passed on)."""
    if document.status == Invoice.Status.VOID:
        return False
    last = document.moves.order_by("pk").last()
    paid = Payment.objects.for_org(document.organization_id).filter(invoice=document)
    references = set(paid.exclude(reference=None).values_list("reference", flat=True))
    said = last.note if last else ""
    return any(str(each) in said for each in references) or said.startswith(CREDITED)


def _give_back(document: Invoice, remote: RemoteInvoice, key: str) -> None:
    intent = gateway.payment_of(remote.id)
    if not intent:
        return
    paid = gateway.payment(intent)
    if paid.amount > paid.refunded and not paid.disputed:
        gateway.refund(
            intent=intent,
            minor=paid.amount - paid.refunded,
            currency=document.currency,
            key=f"{key}-refund",
        )
