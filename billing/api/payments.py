"""Stripe's webhooks in, and the pages at Stripe where a member saves a card or pays."""

from typing import Literal
from uuid import UUID

from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from pydantic import BaseModel, ConfigDict, Field, HttpUrl

from billing import checkouts, events, gateway
from billing.receivables import Checkout
from billing.remote import Forged
from billing.soon import soon
from kit import money
from kit.edge import Endpoint, Json, NotFound, body
from kit.errors import Invalid
from kit.idempotency import HEADER, checked
from kit.threads import in_thread
from tenants.api.access import ManagedEndpoint
from tenants.auth import Caller, authenticate
from tenants.roles import Action


class WantedPage(BaseModel):
    """What page is wanted."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["card", "portal", "top_up"] = Field(
        description="Save a card; Stripe's own portal; or pay for credit in advance."
    )
    amount: str = Field("0", description="Of a top-up, in the account's currency, like `25.00`.")
    return_url: HttpUrl = Field(description="Where the person comes back to.")


class Page(BaseModel):
    """A page at Stripe; `url` is there once the status is `ready`."""

    id: UUID
    kind: str
    status: str = Field(examples=["pending", "ready", "done", "failed"])
    url: str
    error: str


class _PayersEndpoint(ManagedEndpoint):
    """For whoever may pay."""

    async def known(self, request: HttpRequest) -> Caller:
        """Know them, or refuse."""
        caller = await authenticate(request.headers.get("Authorization"))
        caller.allow(Action.MANAGE_BILLING)
        return caller


class Checkouts(_PayersEndpoint):
    """Ask for a page."""

    @extend_schema(
        operation_id="open_checkout",
        tags=["Usage"],
        summary="Ask for a page to save a card",
        request=WantedPage,
        responses={202: Page},
    )
    async def post(self, request: HttpRequest) -> HttpResponseBase:
        """Its id; ask for its address in a moment."""
        wanted, now = await body(request, WantedPage), timezone.now()
        organization = self.caller.organization
        amount = _nanos(wanted.amount)
        key = request.headers.get(HEADER)
        key = "" if key is None else checked(key)

        def ask() -> Checkout:
            found = checkouts.ask(
                organization=organization,
                kind=wanted.kind,
                back=str(wanted.return_url),
                amount=amount,
                now=now,
                key=key,
            )
            soon("billing.open_checkout", checkout=str(found.pk))
            return found

        return Json(_page(await in_thread(ask)), status=202)


class OneCheckout(_PayersEndpoint):
    """A page that was asked for."""

    @extend_schema(
        operation_id="checkout",
        tags=["Usage"],
        summary="The address of a page that was asked for",
        responses=Page,
    )
    async def get(self, request: HttpRequest, identifier: UUID) -> HttpResponseBase:
        """Where it is, as soon as Stripe has answered."""
        rows = Checkout.objects.for_org(self.caller.organization).filter(pk=identifier)
        found = await in_thread(rows.first)
        if found is None:
            raise NotFound(f"There is no page {identifier}.")
        return Json(_page(found))


class StripeEvents(Endpoint):
    """Stripe's webhooks: their signature is who sends them."""

    @extend_schema(exclude=True)
    async def post(self, request: HttpRequest) -> HttpResponseBase:
        """Kept, and handled by a task; what is not Stripe's is refused."""
        if not gateway.enabled():
            raise NotFound("No payment provider is set up here.")
        raw, signature = request.body, request.headers.get("Stripe-Signature", "")
        now = timezone.now()

        def receive() -> str:
            event = events.receive(body=raw, signature=signature, now=now)
            soon("billing.handle_event", event=event)
            return event

        try:
            return Json({"received": await in_thread(receive)})
        except Forged as error:
            raise Invalid(str(error), param="Stripe-Signature") from error


def _nanos(amount: str) -> int:
    try:
        return money.parse(amount)
    except ValueError as error:
        raise Invalid(f"amount: {error}", param="amount") from None


def _page(found: Checkout) -> dict[str, str]:
    page = Page(id=found.pk, kind=found.kind, status=found.status, url=found.url, error=found.error)
    return page.model_dump(mode="json")
