"""/api/v1/billing/details: whom invoices are made out to."""

from dataclasses import asdict

from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, extend_schema
from pydantic import BaseModel, ConfigDict, Field

from billing import buyers
from billing.api.access import AccountEndpoint
from kit.edge import Json, NotFound, body
from kit.threads import in_thread


class BillingDetailsForm(BaseModel):
    """As they stand in the head of an invoice."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=200, examples=["Acme GmbH"])
    address: str = Field(
        max_length=500, description="Lines as on a letter.", examples=["Weg 1\n20095 Hamburg"]
    )
    country: str = Field(description="ISO 3166, two letters.", examples=["DE"])
    vat_id: str = Field(
        "", max_length=40, description="Of a business in the EU; empty if there is none."
    )
    email: str = Field("", max_length=254, description="Where mails about money go.")


class Details(AccountEndpoint):
    """The organization's."""

    @extend_schema(
        operation_id="billing_details",
        tags=["Usage"],
        summary="Whom invoices are made out to",
        responses=BillingDetailsForm,
    )
    async def get(self, request: HttpRequest) -> HttpResponseBase:
        """404 until somebody has said; invoices bear the organization's name then."""
        found = await in_thread(lambda: buyers.read(self.caller.organization))
        if found is None:
            raise NotFound("Nobody has said yet whom invoices are made out to; PUT it here.")
        return Json(asdict(found))

    @extend_schema(
        operation_id="set_billing_details",
        tags=["Usage"],
        summary="Say whom invoices are made out to",
        request=BillingDetailsForm,
        responses=BillingDetailsForm,
        examples=[
            OpenApiExample(
                "A business in Germany",
                value={
                    "name": "Acme GmbH",
                    "address": "Weg 1\n20095 Hamburg",
                    "country": "DE",
                    "vat_id": "DE123456789",
                    "email": "invoices@acme.example",
                },
            )
        ],
    )
    async def put(self, request: HttpRequest) -> HttpResponseBase:
        """All of it; country and VAT id decide the tax from the next invoice on."""
        wanted, now = await body(request, BillingDetailsForm), timezone.now()
        found = await in_thread(
            lambda: buyers.write(
                organization=self.caller.organization,
                details=buyers.Details(**wanted.model_dump()),
                now=now,
                by=self.actor,
            )
        )
        return Json(asdict(found))
