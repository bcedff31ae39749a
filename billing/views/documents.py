"""On the billing page: invoices as files, and what checks them without us."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse

from billing import merkle
from billing.api.invoices import proof_file, usage_file
from billing.documents import invoice_pdf
from billing.models import Invoice
from kit.edge import NotFound
from tenants.roles import Action
from tenants.views.access import OrganizationPage


class _File(OrganizationPage):
    """Open while suspended: whoever owes has to see for what."""

    here = "billing"
    open_while_suspended = True
    actions: ClassVar[Mapping[str, Action]] = {"GET": Action.READ_USAGE}


class Document(_File):
    """An invoice or credit note as a file."""

    def get(self, request: HttpRequest, number: str) -> HttpResponse:
        """The PDF."""
        rows = Invoice.objects.for_org(self.caller.organization).filter(number=number)
        found = rows.select_related("corrects").first()
        if found is None:
            raise NotFound(f"There is no document {number}.")
        name = f'inline; filename="{number}.pdf"'
        return HttpResponse(
            invoice_pdf(found),
            content_type="application/pdf",
            headers={"Content-Disposition": name},
        )


class Usage(_File):
    """The usage behind an invoice."""

    def get(self, request: HttpRequest, number: str) -> StreamingHttpResponse:
        """As REST's, for whoever is logged in."""
        return usage_file(self.caller.organization, number)


class Proof(_File):
    """The proof of an invoice."""

    def get(self, request: HttpRequest, number: str) -> StreamingHttpResponse:
        """As REST's, for whoever is logged in."""
        return proof_file(self.caller.organization, number)


class Checker(_File):
    """What checks proofs: one file, which needs Python alone."""

    def get(self, request: HttpRequest) -> HttpResponse:
        """As it is."""
        return HttpResponse(
            Path(merkle.__file__).read_bytes(),
            content_type="text/x-python; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="merkle.py"'},
        )
