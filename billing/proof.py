"""What an invoice's Merkle root is over: its month's ledger rows, each as one line of JSON.

The database writes the lines and hashes them, so that a month of millions is closed in a minute.
"""

from collections.abc import Iterator
from datetime import UTC, date
from functools import lru_cache
from typing import Any
from uuid import UUID

import orjson
from django.db import connection

from billing import merkle, subscriptions
from billing.models import Fee, Invoice, LedgerEntry, Meter, PriceVersion
from kit.edge import NotFound
from kit.money import minor_exponent

FORMAT = "ledger-rows-3"
_PAGE = 20_000
_NEW = ("kind", "project")
_OF_1 = (
    *("amount", "amounts", "created_at", "currency", "key", "label", "model", "request"),
    *("state", "units"),
)
_FIELDS = {
    "ledger-rows-1": _OF_1,
    "ledger-rows-2": tuple(sorted((*_OF_1, *_NEW))),
    FORMAT: tuple(sorted((*_OF_1, *_NEW, "price_version"))),
}
_TEXT = "to_json({name}::text)::text"
_NAMES = sorted([*map(str, Meter), *map(str, Fee)])
_OBJECT = (
    "'{{' || concat_ws(',', "
    + ", ".join(f"'\"{name}\":' || ({{name}}->>'{name}')" for name in _NAMES)
    + ") || '}}'"
)
"""An object by meter, keys sorted: what is not there is left out."""
_WRITTEN = {
    "amount": "amount::text",
    "amounts": _OBJECT,
    "units": _OBJECT,
    "price_version": "coalesce(price_version_id::text, 'null')",
    "created_at": (
        'to_char(created_at AT TIME ZONE \'UTC\', \'\\"YYYY-MM-DD"T"HH24:MI:SS.US"Z"\\"\')'
    ),
}
_ROWS = """
SELECT request, {wanted} FROM public.billing_ledgerentry
WHERE organization_id = %s AND month = %s AND request > %s ORDER BY request LIMIT %s
"""
_LEAVES = """
SELECT string_agg(uuid_send(request) || leaf, '' ORDER BY request) FROM (
    SELECT request, sha256('\\x00'::bytea || convert_to({line}, 'UTF8')) AS leaf
    FROM public.billing_ledgerentry
    WHERE organization_id = %s AND month = %s AND request > %s ORDER BY request LIMIT %s
) page
"""
"""One value of many rows: a row each would cost more to fetch than to hash."""
_MANY = 100_000
_KEY, _WIDE = 16, 48
"""Bytes of a request's identifier, and of that and its hash."""


def rows(organization: int, month: date, form: str = FORMAT) -> Iterator[tuple[UUID, bytes]]:
    """The month's rows in the order of their requests, as hashed: sorted keys, no spaces, UTC."""
    for request, line in _pages(organization, month, _line(form)):
        yield request, line.encode()


def root(organization: int, month: date, form: str = FORMAT) -> tuple[str, int]:
    """The root in hexadecimal, and how many rows it is over."""
    count = 0

    def leaves() -> Iterator[bytes]:
        nonlocal count
        for page in _hashed(organization, month, form):
            count += len(page) // _WIDE
            for at in range(_KEY, len(page), _WIDE):
                yield page[at : at + _WIDE - _KEY]

    return merkle.root(leaves()).hex(), count


def _hashed(organization: int, month: date, form: str) -> Iterator[bytes]:
    """Pages of each row's identifier and hash, one behind the other."""
    statement = _LEAVES.format(line=_line(form).replace("%", "%%"))
    after, page = UUID(int=0), b" " * _MANY * _WIDE
    while len(page) == _MANY * _WIDE:
        with connection.cursor() as cursor:
            cursor.execute(statement, [organization, month, after, _MANY])
            page = bytes(cursor.fetchone()[0] or b"")
        yield page
        after = UUID(bytes=page[-_WIDE:][:_KEY]) if page else after


def _pages(organization: int, month: date, wanted: str) -> Iterator[tuple[UUID, Any]]:
    after, page = UUID(int=0), [None] * _PAGE
    while len(page) == _PAGE:
        with connection.cursor() as cursor:
            statement = _ROWS.format(wanted=wanted.replace("%", "%%"))
            cursor.execute(statement, [organization, month, after, _PAGE])
            page = cursor.fetchall()
        yield from page
        after = page[-1][0] if page else after


@lru_cache
def _line(form: str) -> str:
    """The expression that writes a row as its line."""
    parts = []
    for name in _FIELDS[form]:
        written = _WRITTEN.get(name, _TEXT).format(name=name)
        parts.append(f"'\"{name}\":' || {written}")
    return "'{' || " + " || ',' || ".join(parts) + " || '}'"


def head(invoice: Invoice) -> dict[str, Any]:
    """What the invoice says: the first line of the whole proof.

    With the price lists that its rows name and the plan's minimum, so that each amount can be
    reckoned anew.
    """
    reckoned = {}
    if invoice.proof_format == FORMAT:
        least = subscriptions.minimum(organization=invoice.organization_id, month=invoice.month)
        reckoned = {"prices": _prices(invoice), "minimum_nanos": least}
    return {
        **reckoned,
        "format": invoice.proof_format,
        "number": invoice.number,
        "month": f"{invoice.month:%Y-%m}",
        "currency": invoice.currency,
        "rows": invoice.row_count,
        "root": invoice.merkle_root,
        "exact_nanos": invoice.subtotal,
        "granted_nanos": invoice.granted,
        "net_minor": invoice.total_minor,
        "minor_exponent": minor_exponent(invoice.currency),
        "tax_minor": invoice.tax_minor,
    }


def _prices(invoice: Invoice) -> dict[str, Any]:
    """By version: model, nanos for a million units by meter, tiers, and since when they hold."""
    rows = LedgerEntry.objects.for_org(invoice.organization_id).filter(month=invoice.month)
    used = rows.exclude(price_version=None).order_by().values("price_version").distinct()
    return {
        str(price.pk): {
            "model": price.model,
            "currency": price.currency,
            "effective_from": price.effective_from.astimezone(UTC).isoformat(),
            "rates": price.rates,
            "tiers": price.tiers,
        }
        for price in PriceVersion.objects.filter(pk__in=used).order_by("pk")
    }


def whole(invoice: Invoice) -> Iterator[bytes]:
    """The proof of the whole invoice, in pieces of many lines."""
    piece = [orjson.dumps(head(invoice))]
    for _, line in _of(invoice):
        piece.append(line)
        if len(piece) >= _PAGE:
            yield b"\n".join(piece) + b"\n"
            piece = []
    if piece:
        yield b"\n".join(piece) + b"\n"


def single(invoice: Invoice, request: UUID) -> dict[str, Any]:
    """The proof that one request is on the invoice: its row and the path to the root."""
    leaves, place, text = [], -1, b""
    for index, (identifier, line) in enumerate(_of(invoice)):
        leaves.append(merkle.leaf(line))
        if identifier == request:
            place, text = index, line
    if place < 0:
        raise NotFound(f"The request {request} is not on the invoice {invoice.number}.")
    steps = [step.hex() for step in merkle.path(leaves, place)]
    return {**head(invoice), "index": place, "row": text.decode(), "path": steps}


def _of(invoice: Invoice) -> Iterator[tuple[UUID, bytes]]:
    return rows(invoice.organization_id, invoice.month, invoice.proof_format)
