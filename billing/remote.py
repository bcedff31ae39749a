"""What the payment provider answers, in our words: its objects, and the ways it says no."""

from dataclasses import dataclass
from typing import Any

from billing.stripe_amounts import ours


class Unanswered(Exception):
    """No answer came, or "not now": it may be done or not. Ask again later with the same key."""


class Failed(Exception):
    """Stripe failed (5xx), or the key had stood for something else: look whether it is done, and
    ask again with another key."""


class Declined(Exception):
    """The card was declined; `code` says why, in Stripe's words."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class Rejected(Exception):
    """A request that Stripe will not take, whoever asks again: a person has to look."""


class Forged(Exception):
    """A webhook that is not Stripe's, or is too old."""


@dataclass(frozen=True, slots=True)
class Buyer:
    """Whom invoices are made out to; empty where that is not known."""

    name: str
    email: str = ""
    country: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """A saved payment method, without its number."""

    method: str
    shown: str


@dataclass(frozen=True, slots=True)
class RemoteInvoice:
    """An invoice there; amounts in minor units. `lines` are our lines' names already on it."""

    id: str
    status: str
    total: int
    remaining: int
    number: str
    invoice: str
    currency: str
    created: int
    lines: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RemoteNote:
    """A credit note there; `note` is ours. `refunded` is what of it went back to the card."""

    id: str
    invoice: str
    total: int
    refunded: int
    note: str
    created: int


@dataclass(frozen=True, slots=True)
class RemotePayment:
    """A payment intent there, and what became of its charge; amounts in minor units."""

    id: str
    status: str
    amount: int
    refunded: int
    disputed: bool
    method: str
    payment: str
    customer: str
    created: int


@dataclass(frozen=True, slots=True)
class RemoteRefund:
    """A refund there; `refund` is our row's. One that was made may fail days later."""

    id: str
    status: str
    amount: int
    refund: str
    failure: str
    created: int

    @property
    def has_failed(self) -> bool:
        """For good: nothing goes back by it."""
        return self.status in ("failed", "canceled")


@dataclass(frozen=True, slots=True)
class RemoteCheckout:
    """A Checkout session there."""

    id: str
    url: str
    status: str
    paid: bool
    amount: int
    payment_intent: str
    setup_intent: str
    checkout: str


def id_of(value: Any) -> str:
    """Of what is answered as an id or whole; "" where there is nothing."""
    return value if isinstance(value, str) else str(getattr(value, "id", "") or "")


def plain(metadata: Any) -> dict[str, str]:
    """Metadata as it was given."""
    return dict(metadata.to_dict()) if metadata else {}


def as_checkout(found: Any) -> RemoteCheckout:
    """A Checkout session, from what the provider's package answers."""
    return RemoteCheckout(
        id=found.id,
        url=found.url or "",
        status=found.status or "",
        paid=found.payment_status == "paid",
        amount=ours(found.amount_total or 0, found.currency) if found.currency else 0,
        payment_intent=id_of(found.payment_intent),
        setup_intent=id_of(found.setup_intent),
        checkout=plain(found.metadata).get("checkout", ""),
    )


def as_invoice(found: Any, lines: frozenset[str] = frozenset()) -> RemoteInvoice:
    """An invoice, with the names of its lines where they were read."""
    return RemoteInvoice(
        id=found.id,
        status=found.status or "",
        total=ours(found.total, found.currency),
        remaining=ours(found.amount_remaining, found.currency),
        number=found.number or "",
        invoice=plain(found.metadata).get("invoice", ""),
        currency=found.currency.upper(),
        created=found.created,
        lines=lines,
    )


def as_refund(found: Any) -> RemoteRefund:
    """A refund of a payment."""
    return RemoteRefund(
        id=found.id,
        status=found.status or "succeeded",
        amount=ours(found.amount, found.currency),
        refund=plain(found.metadata).get("refund", ""),
        failure=(getattr(found, "failure_reason", None) or "").replace("_", " "),
        created=found.created,
    )


def as_payment(found: Any) -> RemotePayment:
    """A payment intent; refunds and disputes only with its charge expanded."""
    charge = found.latest_charge
    is_whole = charge is not None and not isinstance(charge, str)
    return RemotePayment(
        id=found.id,
        status=found.status,
        amount=ours(found.amount, found.currency),
        refunded=ours(charge.amount_refunded, found.currency) if is_whole else 0,
        disputed=charge.disputed if is_whole else False,
        method=id_of(found.payment_method),
        payment=plain(found.metadata).get("payment", ""),
        customer=id_of(found.customer),
        created=found.created,
    )
