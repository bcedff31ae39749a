"""What the double knows: objects by id, the events they caused, and what cards do."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import stripe
import stripe.billing_portal
import stripe.checkout

from tests.stripe import shapes

RESOURCES: Mapping[str, type] = {
    "billing_portal.session": stripe.billing_portal.Session,
    "charge": stripe.Charge,
    "checkout.session": stripe.checkout.Session,
    "credit_note": stripe.CreditNote,
    "customer": stripe.Customer,
    "dispute": stripe.Dispute,
    "event": stripe.Event,
    "invoice": stripe.Invoice,
    "invoice_payment": stripe.InvoicePayment,
    "invoiceitem": stripe.InvoiceItem,
    "line_item": stripe.InvoiceLineItem,
    "payment_intent": stripe.PaymentIntent,
    "payment_method": stripe.PaymentMethod,
    "refund": stripe.Refund,
    "setup_intent": stripe.SetupIntent,
    "tax_id": stripe.TaxId,
}
LEAST = {"eur": 50, "usd": 50, "gbp": 30, "jpy": 50, "kwd": 150}
"""The least that can be charged, in the currency's minor unit."""
THREE_DECIMALS = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})


@dataclass(frozen=True, slots=True)
class Card:
    """A test card: what charging it comes to ("": it succeeds). A debit takes days to succeed.

    `refunds` is what its refunds are; a `failed` one succeeds first, and has failed by the next
    request.
    """

    number: str
    about: str
    decline: str = ""
    refuses_setup: bool = False
    disputes: bool = False
    refunds: str = "succeeded"
    kind: str = "card"


CARDS = {
    card.number: card
    for card in (
        Card("4242424242424242", "succeeds"),
        Card("4000000000000341", "can be saved, then is declined", "generic_decline"),
        Card("4000000000009995", "has not the money", "insufficient_funds", refuses_setup=True),
        Card("4000002760003184", "wants its holder each time", "authentication_required"),
        Card("4000000000000259", "succeeds, then is disputed", disputes=True),
        Card("4000000000007726", "succeeds; refunds take days", refunds="pending"),
        Card("4000000000005126", "succeeds; refunds fail afterwards", refunds="failed"),
        Card("DE89370400440532013000", "a debit, which takes days", kind="sepa_debit"),
    )
}


class Failure(Exception):
    """An error as Stripe answers it."""

    def __init__(
        self, message: str, *, status: int = 400, kind: str = "invalid_request_error", **more: Any
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"type": kind, "message": message, **more}


@dataclass(slots=True)
class State:
    """Everything; one request at a time touches it."""

    clock: Callable[[], float] = time.time
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    cards: dict[str, Card] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    later: list[Callable[[], object]] = field(default_factory=list)
    """Done before the next request is."""
    _made: int = 0

    def now(self) -> int:
        """Seconds since 1970."""
        return int(self.clock())

    def make(self, prefix: str, kind: str, **fields: Any) -> dict[str, Any]:
        """A new object; its shape is checked when it is answered or told of."""
        self._made += 1
        identifier = f"{prefix}_{self._made:024d}"
        made = {"id": identifier, "object": kind, "livemode": False, "created": self.now()}
        self.objects[identifier] = {**made, **fields}
        return self.objects[identifier]

    def get(self, kind: str, identifier: Any) -> dict[str, Any]:
        """An object by its id, or Stripe's 404."""
        found = self.objects.get(str(identifier))
        if found is None or found["object"] != kind:
            raise Failure(
                f"No such {kind}: '{identifier}'", status=404, code="resource_missing", param="id"
            )
        return found

    def of(self, kind: str, **fields: Any) -> Iterator[dict[str, Any]]:
        """Objects of a kind with these fields, the newest first."""
        for each in reversed(self.objects.values()):
            if each["object"] == kind and all(each.get(k) == v for k, v in fields.items()):
                yield each

    def tell(self, name: str, subject: Mapping[str, Any]) -> dict[str, Any]:
        """Note an event, with the object as it is now."""
        self.checked(subject)
        event = self.make(
            "evt",
            "event",
            type=name,
            api_version=stripe.api_version,
            data={"object": copied(subject)},
            pending_webhooks=1,
            request={"id": None, "idempotency_key": None},
        )
        shapes.answer(stripe.Event, {**event, "data": {"object": {}}})
        self.events.append(event)
        return event

    def checked(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """An object that the package would recognize; anything else is a defect of the double."""
        shapes.answer(RESOURCES[data["object"]], data)
        return data


def copied(value: Any) -> Any:
    """A value that later changes don't touch."""
    if isinstance(value, Mapping):
        return {name: copied(each) for name, each in value.items()}
    return [copied(each) for each in value] if isinstance(value, list) else value


def listed(data: list[Any], url: str, *, more: bool = False) -> dict[str, Any]:
    """A list object."""
    return {"object": "list", "data": data, "has_more": more, "url": url}


def require_chargeable(amount: int, currency: str) -> None:
    """Refuse what Stripe would not charge."""
    if amount < LEAST[currency]:
        raise Failure(
            f"Amount must be at least {LEAST[currency]} {currency}",
            code="amount_too_small",
            param="amount",
        )
    if currency in THREE_DECIMALS and amount % 10:
        raise Failure(f"Invalid amount {amount}: {currency} wants a last digit of 0.")
