"""GET /api/v1/invoices, and of each the PDF and the CSV of the usage behind it."""

from collections.abc import AsyncIterator, Iterator
from typing import TypeVar
from uuid import UUID

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import BaseModel, Field

from billing import proof
from billing.api.access import BillingEndpoint
from billing.documents import invoice_pdf, usage_csv
from billing.invoicing import plain
from billing.models import Invoice, InvoiceLine
from kit.edge import Json, NotFound
from kit.errors import Invalid
from kit.money import decimal
from kit.threads import in_thread, take_lane

Piece = TypeVar("Piece", str, bytes)
_MOST = 100


class Line(BaseModel):
    """A model's use of one meter by a project, or what else is charged.

    `exact` is the ledger's sum; `amount` is rounded.
    """

    kind: str = Field(description="use, tier, minimum, plan, grants, prepaid or credit.")
    model: str = Field(description="A plan's name where the line is a plan's fee.")
    meter: str
    project: str
    label: str = Field(description="What time a fee is for.")
    units: int
    exact: str = Field(examples=["1.234567890"])
    amount: str = Field(examples=["1.23"])


class Document(BaseModel):
    """An issued invoice, or a credit note, whose amounts are negative."""

    number: str = Field(examples=["INV-2026-000042"])
    kind: str
    status: str
    month: str = Field(examples=["2026-11"])
    currency: str
    exact: str = Field(description="Exactly the sum of the month's ledger rows.")
    net: str = Field(description="What is taxed.")
    tax: str
    prepaid: str = Field(description="What prepaid credit has paid of it.")
    total: str = Field(description="Net and tax, less what was prepaid.")
    tax_name: str
    tax_rate_percent: str = Field(examples=["19.000"])
    issued_at: str | None
    due_on: str | None
    corrects: str | None = Field(description="The invoice that a credit note corrects.")
    note: str


class WholeDocument(Document):
    """With its lines."""

    lines: list[Line]


class DocumentPage(BaseModel):
    """Some documents, the newest first."""

    data: list[Document]
    next: str | None = Field(description="Send it as `before` for the page that follows.")


class Invoices(BillingEndpoint):
    """The organization's issued documents."""

    @extend_schema(
        operation_id="invoices",
        tags=["Usage"],
        summary="List invoices and credit notes",
        parameters=[
            OpenApiParameter("limit", int, description=f"1 to {_MOST}; default 20."),
            OpenApiParameter("before", str, description="`next` of the page before."),
        ],
        responses=DocumentPage,
    )
    async def get(self, request: HttpRequest) -> HttpResponseBase:
        """A page of them."""
        limit = _limit(request.GET.get("limit", "20"))
        before = request.GET.get("before")
        organization = self.caller.organization
        rows = await in_thread(lambda: _page(organization, before, limit + 1))
        more = rows[limit - 1].number if len(rows) > limit else None
        page = DocumentPage(data=[_document(row) for row in rows[:limit]], next=more)
        return Json(page.model_dump())


class OneInvoice(BillingEndpoint):
    """One document by its number."""

    @extend_schema(
        operation_id="invoice",
        tags=["Usage"],
        summary="Read an invoice or credit note",
        responses=WholeDocument,
    )
    async def get(self, request: HttpRequest, number: str) -> HttpResponseBase:
        """With its lines."""
        invoice = await in_thread(lambda: _one(self.caller.organization, number))
        lines = [_line(line, invoice.currency) for line in invoice.lines.all()]
        whole = WholeDocument(**_document(invoice).model_dump(), lines=lines)
        return Json(whole.model_dump())


class InvoicePdf(BillingEndpoint):
    """One document, to be filed."""

    @extend_schema(
        operation_id="invoice_pdf",
        tags=["Usage"],
        summary="Download an invoice as PDF",
        responses={(200, "application/pdf"): OpenApiTypes.BINARY},
    )
    async def get(self, request: HttpRequest, number: str) -> HttpResponseBase:
        """The file."""
        made = await in_thread(lambda: invoice_pdf(_one(self.caller.organization, number)))
        return HttpResponse(
            made,
            content_type="application/pdf",
            headers={
                "Content-Disposition": f'inline; filename="{number}.pdf"',
                "Content-Length": str(len(made)),
            },
        )


class InvoiceCsv(BillingEndpoint):
    """The ledger's rows behind an invoice."""

    @extend_schema(
        operation_id="invoice_csv",
        tags=["Usage"],
        summary="Download the usage behind an invoice as CSV",
        responses={(200, "text/csv"): OpenApiTypes.BINARY},
    )
    async def get(self, request: HttpRequest, number: str) -> HttpResponseBase:
        """One line a request."""
        return await in_thread(usage_file, self.caller.organization, number)


class InvoiceProof(BillingEndpoint):
    """The ledger's rows under the root that is printed on the invoice."""

    @extend_schema(
        operation_id="invoice_proof",
        tags=["Usage"],
        summary="Prove an invoice, or that a request is on it",
        description=(
            "Without `request`: lines of JSON, the invoice's figures first, then every row as it "
            "is hashed. With it: that row, and its path to the root."
        ),
        parameters=[OpenApiParameter("request", UUID, description="One request alone.")],
        responses={(200, "application/x-ndjson"): OpenApiTypes.STR},
    )
    async def get(self, request: HttpRequest, number: str) -> HttpResponseBase:
        """Of one request, or of them all."""
        wanted = _request(request.GET.get("request"))
        if wanted is None:
            return await in_thread(proof_file, self.caller.organization, number)
        invoice = await in_thread(_proved, self.caller.organization, number)
        return Json(await in_thread(proof.single, invoice, wanted))


def usage_file(organization: int, number: str) -> StreamingHttpResponse:
    """The usage behind an invoice; the portal's too. Raises `NotFound`."""
    pieces = usage_csv(_one(organization, number))
    return _file(pieces, "text/csv; charset=utf-8", f"{number}.csv", organization)


def proof_file(organization: int, number: str) -> StreamingHttpResponse:
    """The proof of a whole invoice; the portal's too. Raises `NotFound`."""
    pieces = proof.whole(_proved(organization, number))
    return _file(pieces, "application/x-ndjson", f"{number}.ndjson", organization)


def _file(
    pieces: Iterator[Piece], kind: str, name: str, organization: int
) -> StreamingHttpResponse:
    return StreamingHttpResponse(
        _streamed(pieces, organization),
        content_type=kind,
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _request(text: str | None) -> UUID | None:
    if text is None:
        return None
    try:
        return UUID(text)
    except ValueError:
        raise Invalid(f"request: {text[:40]!r} is no request's id.", param="request") from None


def _proved(organization: int, number: str) -> Invoice:
    found = _one(organization, number)
    if not found.merkle_root:
        raise NotFound(f"{number} carries no root: credit notes and old invoices have none.")
    return found


async def _streamed(pieces: Iterator[Piece], organization: int) -> AsyncIterator[Piece]:
    take_lane(organization)
    while (piece := await in_thread(lambda: next(pieces, None))) is not None:
        yield piece


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _MOST:
        raise Invalid(f"limit: {text!r} is no number from 1 to {_MOST}.", param="limit")
    return int(text)


def _issued(organization: int) -> QuerySet[Invoice]:
    rows = Invoice.objects.for_org(organization).exclude(number=None)
    return rows.select_related("corrects").prefetch_related("lines")


def _page(organization: int, before: str | None, most: int) -> list[Invoice]:
    rows = _issued(organization).order_by("-issued_at", "-pk")
    if before is not None:
        last = _one(organization, before)
        rows = rows.filter(issued_at__lte=last.issued_at).exclude(
            issued_at=last.issued_at, pk__gte=last.pk
        )
    return list(rows[:most])


def _one(organization: int, number: str) -> Invoice:
    found = _issued(organization).filter(number=number).first()
    if found is None:
        raise NotFound(f"You have no invoice {number[:24]!r}.")
    return found


def _document(row: Invoice) -> Document:
    return Document(
        number=row.number or "",
        kind=row.kind,
        status=row.status,
        month=f"{row.month:%Y-%m}",
        currency=row.currency,
        exact=decimal(row.subtotal),
        net=plain(row.taxed_minor, row.currency),
        prepaid=plain(row.prepaid_minor, row.currency),
        tax=plain(row.tax_minor, row.currency),
        total=plain(row.due_minor, row.currency),
        tax_name=row.tax_name,
        tax_rate_percent=f"{row.tax_rate // 1000}.{row.tax_rate % 1000:03d}",
        issued_at=row.issued_at.isoformat() if row.issued_at else None,
        due_on=row.due_on.isoformat() if row.due_on else None,
        corrects=row.corrects.number if row.corrects else None,
        note=row.note,
    )


def _line(line: InvoiceLine, currency: str) -> Line:
    return Line(
        kind=line.kind,
        project=line.project,
        label=line.label,
        model=line.model,
        meter=line.meter,
        units=line.units,
        exact=decimal(line.nanos),
        amount=plain(line.minor, currency),
    )
