"""What an invoice's Merkle root is over: its month's ledger rows, each as one line of JSON."""

from collections.abc import Iterator
from datetime import UTC, date
from typing import Any
from uuid import UUID

import orjson

from billing import merkle
from billing.models import Invoice, LedgerEntry
from kit.edge import NotFound

FORMAT = "ledger-rows-1"
_PAGE = 2_000
_COLUMNS = (
    *("request", "created_at", "key", "model", "state"),
    *("units", "amounts", "amount", "currency", "label"),
)


def rows(organization: int, month: date) -> Iterator[tuple[UUID, bytes]]:
    """The month's rows in the order of their requests, as hashed: sorted keys, no spaces, UTC."""
    after = UUID(int=0)
    found = LedgerEntry.objects.for_org(organization).filter(month=month).order_by("request")
    while page := list(found.filter(request__gt=after).values(*_COLUMNS)[:_PAGE]):
        for row in page:
            yield row["request"], _line(row)
        after = page[-1]["request"]


def root(organization: int, month: date) -> tuple[str, int]:
    """The root in hexadecimal, and how many rows it is over."""
    count = 0

    def leaves() -> Iterator[bytes]:
        nonlocal count
        for _, line in rows(organization, month):
            count += 1
            yield merkle.leaf(line)

    return merkle.root(leaves()).hex(), count


def head(invoice: Invoice) -> dict[str, Any]:
    """What the invoice says: the first line of the whole proof."""
    return {
        "format": FORMAT,
        "number": invoice.number,
        "month": f"{invoice.month:%Y-%m}",
        "currency": invoice.currency,
        "rows": invoice.row_count,
        "root": invoice.merkle_root,
        "exact_nanos": invoice.subtotal,
        "granted_nanos": invoice.granted,
        "net_minor": invoice.total_minor,
        "tax_minor": invoice.tax_minor,
    }


def whole(invoice: Invoice) -> Iterator[bytes]:
    """The proof of the whole invoice, in pieces of many lines."""
    piece = [orjson.dumps(head(invoice))]
    for _, line in rows(invoice.organization_id, invoice.month):
        piece.append(line)
        if len(piece) >= _PAGE:
            yield b"\n".join(piece) + b"\n"
            piece = []
    if piece:
        yield b"\n".join(piece) + b"\n"


def single(invoice: Invoice, request: UUID) -> dict[str, Any]:
    """The proof that one request is on the invoice: its row and the path to the root."""
    leaves, place, text = [], -1, b""
    for index, (identifier, line) in enumerate(rows(invoice.organization_id, invoice.month)):
        leaves.append(merkle.leaf(line))
        if identifier == request:
            place, text = index, line
    if place < 0:
        raise NotFound(f"The request {request} is not on the invoice {invoice.number}.")
    steps = [step.hex() for step in merkle.path(leaves, place)]
    return {**head(invoice), "index": place, "row": text.decode(), "path": steps}


def _line(row: dict[str, Any]) -> bytes:
    made = row["created_at"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return orjson.dumps({**row, "created_at": made}, option=orjson.OPT_SORT_KEYS)
