"""What customers get of an invoice: the PDF, and the CSV of the usage behind it."""

import csv
from collections.abc import Iterator
from io import StringIO
from typing import Any
from uuid import UUID

from billing.invoicing import Line, shown
from billing.lifecycle import PREPAID
from billing.models import Invoice, InvoiceLine, LedgerEntry, Meter
from billing.typesetting import pdf
from kit.money import decimal, show

COLUMNS = (
    *("request", "created_at", "key", "model", "state", *Meter),
    *("amount", "currency", "label", "project", "kind"),
)
_OTHERS = {
    "grants": "Credit given",
    "prepaid": "Prepaid",
    "minimum": "Monthly minimum",
    "credit": "Credit",
}
"""What is charged or credited without a model."""
_PAGE = 2_000
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def invoice_pdf(invoice: Invoice) -> bytes:
    """An issued invoice or credit note as people file it."""
    return pdf("billing/invoice.typ", as_data(invoice))


def as_data(invoice: Invoice) -> dict[str, Any]:
    """What the template shows, already written for people."""
    currency = invoice.currency
    is_note = invoice.kind == Invoice.Kind.CREDIT_NOTE
    return {
        "title": "Credit note" if is_note else "Invoice",
        "number": invoice.number or "Draft",
        "status": invoice.status,
        "month": f"{invoice.month:%B %Y}",
        "issued": f"{invoice.issued_at:%-d %B %Y}" if invoice.issued_at else "not issued",
        "due": f"{invoice.due_on:%-d %B %Y}" if invoice.due_on else "",
        "corrects": invoice.corrects.number if invoice.corrects else "",
        "seller": invoice.seller,
        "buyer": invoice.buyer,
        "lines": [
            {
                "model": named(line),
                "meter": measured(line),
                "detail": line.project or line.label,
                "units": f"{line.units:,}",
                "exact": show(line.nanos, currency).removeprefix(f"{currency} "),
                "amount": shown(line.minor, currency).removeprefix(f"{currency} "),
            }
            for line in invoice.lines.all()
            if line.kind != PREPAID
        ],
        "currency": currency,
        "exact": show(invoice.subtotal, currency),
        "net": shown(invoice.taxed_minor, currency),
        "prepaid": shown(-invoice.prepaid_minor, currency) if invoice.prepaid_minor else "",
        "tax_name": _tax_name(invoice),
        "tax": shown(invoice.tax_minor, currency),
        "total": shown(invoice.due_minor, currency),
        "note": invoice.note,
        "root": invoice.merkle_root,
        "rows": f"{invoice.row_count:,}",
    }


def named(line: Line | InvoiceLine) -> str:
    """What a line is about: a model, a plan, or what else is charged."""
    return line.model or _OTHERS.get(line.meter, "")


def measured(line: Line | InvoiceLine) -> str:
    """The meter, for people; nothing where the line is `named` by it."""
    if not line.model and line.meter in _OTHERS:
        return ""
    meter = line.meter.replace("_", " ")
    return f"{meter}, by volume" if line.kind == LedgerEntry.Kind.TIER else meter


def described(line: Line | InvoiceLine) -> str:
    """A line in one text."""
    return " · ".join(filter(None, [named(line), measured(line), line.project or line.label]))


def usage_csv(invoice: Invoice) -> Iterator[str]:
    """The ledger's rows of an invoice's month, in pieces of many lines, in the requests' order."""
    yield _lines([COLUMNS])
    after = UUID(int=0)
    rows = LedgerEntry.objects.for_org(invoice.organization_id).filter(month=invoice.month)
    while page := list(rows.filter(request__gt=after).order_by("request")[:_PAGE]):
        yield _lines([_cells(row) for row in page])
        after = page[-1].request


def _cells(row: LedgerEntry) -> list[Any]:
    return [
        row.request,
        row.created_at.isoformat(),
        row.key,
        _harmless(row.model),
        row.state,
        *(row.units.get(meter.value, 0) for meter in Meter),
        decimal(row.amount),
        row.currency,
        _harmless(row.label),
        _harmless(row.project),
        row.kind,
    ]


def _harmless(text: str) -> str:
    """What a spreadsheet would take for a formula is set off by an apostrophe."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _lines(rows: list[Any]) -> str:
    out = StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()


def _tax_name(invoice: Invoice) -> str:
    if not invoice.tax_name:
        return ""
    whole, part = divmod(invoice.tax_rate, 1000)
    percent = f"{whole}.{part:03d}".rstrip("0").rstrip(".")
    return f"{invoice.tax_name} {percent} %"
