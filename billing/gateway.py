"""Stripe, and nothing else: the one module that imports its package.

Calls block, so only tasks and commands make them. Each that changes something takes a `key`, made
from the row it is done for: sent again with the same key, Stripe does it once and answers the same.
"""

import json
import logging
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, TypeVar

import stripe
import structlog
from django.conf import settings

from billing.remote import (
    Buyer,
    Card,
    Declined,
    Failed,
    Forged,
    Rejected,
    RemoteCheckout,
    RemoteInvoice,
    RemoteNote,
    RemotePayment,
    RemoteRefund,
    Unanswered,
    as_checkout,
    as_invoice,
    as_payment,
    as_refund,
    id_of,
    plain,
)
from billing.stripe_amounts import chargeable as chargeable
from billing.stripe_amounts import is_too_small as is_too_small
from billing.stripe_amounts import ours, theirs

logging.getLogger("stripe").setLevel(logging.WARNING)

log = structlog.get_logger()

T = TypeVar("T")
_SECONDS = 20
_PAGE = 100
_NOT_NOW = (401, 403, 409)
"""A wrong key of ours, or one in flight: nothing is said of the request itself."""
TOLERANCE = 300
"""How many seconds old a webhook's signature may be."""


def enabled() -> bool:
    """Whether there is a key; without one invoices are paid by transfer and marked by hand."""
    return bool(settings.STRIPE_KEY)


def create_customer(*, organization: int, buyer: Buyer, key: str) -> str:
    """Its id."""
    params: Any = {**_about(buyer), "metadata": {"organization": str(organization)}}
    return str(_ask(lambda: _v1().customers.create(params, _once(key))).id)


def update_customer(*, customer: str, buyer: Buyer, key: str) -> None:
    """Have the provider know the buyer as we do."""
    params: Any = {"email": "", **_about(buyer)}
    _ask(lambda: _v1().customers.update(customer, params, _once(key)))


def keep_tax_id(*, customer: str, kind: str, value: str, instead_of: str, key: str) -> None:
    """A VAT id, as Stripe's `kind` (`eu_vat`), in the place of another; "" stands for none."""
    tax_ids = _v1().customers.tax_ids
    known = _ask(lambda: list(tax_ids.list(customer, {"limit": _PAGE}).data))
    for each in known:
        if each.value == instead_of:
            _ask(partial(tax_ids.delete, customer, each.id))
    if value and all(each.value != value for each in known):
        _ask(lambda: tax_ids.create(customer, {"type": kind, "value": value}, _once(key)))


def saved_card(customer: str) -> Card | None:
    """What the customer's invoices are charged to."""
    found = _ask(lambda: _v1().customers.retrieve(customer))
    chosen = found.invoice_settings.default_payment_method if found.invoice_settings else None
    return _card(id_of(chosen)) if chosen else None


def save_card(*, customer: str, setup_intent: str = "", method: str = "", key: str) -> Card:
    """Charge invoices to the card of a finished set-up (or to `method`) from now on."""
    if setup_intent:
        method = id_of(_ask(lambda: _v1().setup_intents.retrieve(setup_intent)).payment_method)
    params: Any = {"invoice_settings": {"default_payment_method": method}}
    _ask(lambda: _v1().customers.update(customer, params, _once(key)))
    return _card(method)


def open_setup(*, customer: str, checkout: str, back: str, key: str) -> RemoteCheckout:
    """A page where a person saves a card."""
    return _open({"mode": "setup"}, customer, checkout, back, key)


def open_top_up(
    *, customer: str, currency: str, minor: int, checkout: str, back: str, key: str
) -> RemoteCheckout:
    """A page where a person pays for credit; the card is saved."""
    price = {
        "currency": currency.lower(),
        "unit_amount": theirs(minor, currency),
        "product_data": {"name": "Prepaid credit"},
    }
    params: Any = {
        "mode": "payment",
        "line_items": [{"price_data": price, "quantity": 1}],
        "payment_intent_data": {"setup_future_usage": "off_session"},
    }
    return _open(params, customer, checkout, back, key)


def checkout(session: str) -> RemoteCheckout:
    """As it stands now."""
    return as_checkout(_ask(lambda: _v1().checkout.sessions.retrieve(session)))


def portal(*, customer: str, back: str, key: str) -> str:
    """The address of Stripe's own page for the customer."""
    params: Any = {"customer": customer, "return_url": back}
    return str(_ask(lambda: _v1().billing_portal.sessions.create(params, _once(key))).url)


def create_invoice(
    *, customer: str, currency: str, number: str, invoice: str, key: str
) -> RemoteInvoice:
    """An empty draft that moves only when it is told to."""
    params: Any = {
        "customer": customer,
        "currency": currency.lower(),
        "number": number,
        "auto_advance": False,
        "collection_method": "charge_automatically",
        "pending_invoice_items_behavior": "exclude",
        "metadata": {"invoice": invoice},
    }
    return as_invoice(_ask(lambda: _v1().invoices.create(params, _once(key))))


def add_item(
    *,
    customer: str,
    invoice: str,
    minor: int,
    currency: str,
    description: str,
    line: str,
    key: str,
) -> None:
    """A line on a draft."""
    params: Any = {
        "customer": customer,
        "invoice": invoice,
        "amount": theirs(minor, currency),
        "currency": currency.lower(),
        "description": description,
        "metadata": {"line": line},
    }
    _ask(lambda: _v1().invoice_items.create(params, _once(key)))


def finalize(invoice: str, *, key: str) -> RemoteInvoice:
    """From draft to open."""
    params: Any = {"auto_advance": False}
    return as_invoice(_ask(lambda: _v1().invoices.finalize_invoice(invoice, params, _once(key))))


def pay(invoice: str, *, method: str, key: str) -> RemoteInvoice:
    """Charge the card; raises `Declined`."""
    params: Any = {"payment_method": method, "off_session": True}
    return as_invoice(_ask(lambda: _v1().invoices.pay(invoice, params, _once(key))))


def note_paid(invoice: str, *, key: str) -> RemoteInvoice:
    """The money came another way."""
    params: Any = {"paid_out_of_band": True}
    return as_invoice(_ask(lambda: _v1().invoices.pay(invoice, params, _once(key))))


def void(invoice: str, *, key: str) -> RemoteInvoice:
    """An open invoice is no longer due."""
    return as_invoice(_ask(lambda: _v1().invoices.void_invoice(invoice, {}, _once(key))))


def invoice(identifier: str) -> RemoteInvoice:
    """As it stands now, with the names of its lines while it is a draft."""
    found = _ask(lambda: _v1().invoices.retrieve(identifier))
    lines: list[str] = []
    if found.status == "draft":
        page: Any = {"limit": _PAGE}
        rows = _ask(
            lambda: list(_v1().invoices.line_items.list(identifier, page).auto_paging_iter())
        )
        lines = [plain(row.metadata).get("line", "") for row in rows]
    return as_invoice(found, frozenset(lines))


def invoices(*, customer: str) -> Iterator[RemoteInvoice]:
    """All of a customer's."""
    params: Any = {"customer": customer, "limit": _PAGE}
    for each in _ask(lambda: list(_v1().invoices.list(params).auto_paging_iter())):
        yield as_invoice(each)


def payment_of(invoice: str) -> str:
    """The payment intent that paid an invoice; "" where none did."""
    params: Any = {"invoice": invoice, "status": "paid", "limit": _PAGE}
    rows = _ask(lambda: list(_v1().invoice_payments.list(params).data))
    return next((id_of(row.payment.payment_intent) for row in rows), "")


def is_processing(invoice: str) -> bool:
    """Whether money for an invoice is on its way: a debit takes days."""
    params: Any = {"invoice": invoice, "status": "open", "limit": _PAGE}
    rows = _ask(lambda: list(_v1().invoice_payments.list(params).data))
    intents = [id_of(row.payment.payment_intent) for row in rows]
    return any(payment(each).status == "processing" for each in intents if each)


def payment(intent: str) -> RemotePayment:
    """As it stands now."""
    params: Any = {"expand": ["latest_charge"]}
    return as_payment(_ask(lambda: _v1().payment_intents.retrieve(intent, params)))


def payments(*, customer: str) -> Iterator[RemotePayment]:
    """All of a customer's."""
    params: Any = {"customer": customer, "limit": _PAGE, "expand": ["data.latest_charge"]}
    for each in _ask(lambda: list(_v1().payment_intents.list(params).auto_paging_iter())):
        yield as_payment(each)


def charge(
    *, customer: str, method: str, minor: int, currency: str, payment: str, key: str
) -> RemotePayment:
    """Charge a saved card at once, its holder away; raises `Declined`."""
    params: Any = {
        "amount": theirs(minor, currency),
        "currency": currency.lower(),
        "customer": customer,
        "payment_method": method,
        "confirm": True,
        "off_session": True,
        "metadata": {"payment": payment},
    }
    return as_payment(_ask(lambda: _v1().payment_intents.create(params, _once(key))))


def refund(*, intent: str, minor: int, currency: str, key: str, refund: str = "") -> RemoteRefund:
    """Give back some of what a payment brought; `refund` is the row of ours that asks for it."""
    params: Any = {"payment_intent": intent, "amount": theirs(minor, currency)}
    params |= {"metadata": {"refund": refund}} if refund else {}
    return as_refund(_ask(lambda: _v1().refunds.create(params, _once(key))))


def refunds_of(intent: str) -> list[RemoteRefund]:
    """All of a payment's, the oldest first."""
    params: Any = {"payment_intent": intent, "limit": _PAGE}
    rows = _ask(lambda: list(_v1().refunds.list(params).auto_paging_iter()))
    return [as_refund(row) for row in reversed(rows)]


def credit_note(
    *, invoice: str, minor: int, currency: str, how: str, note: str, memo: str, key: str
) -> str:
    """A credit note on an invoice; `how` of a paid one: `refund_amount`, `out_of_band_amount`."""
    amount = theirs(minor, currency)
    params: Any = {"invoice": invoice, "amount": amount, "metadata": {"note": note}}
    params |= ({how: amount} if how else {}) | ({"memo": memo} if memo else {})
    return str(_ask(lambda: _v1().credit_notes.create(params, _once(key))).id)


def credit_notes(**of: str) -> Iterator[RemoteNote]:
    """All of an `invoice`'s, or of a `customer`'s."""
    params: Any = {**of, "limit": _PAGE}
    for each in _ask(lambda: list(_v1().credit_notes.list(params).auto_paging_iter())):
        yield RemoteNote(
            id=each.id,
            invoice=id_of(each.invoice),
            total=ours(each.total, each.currency),
            refunded=ours(sum(back.amount_refunded for back in each.refunds), each.currency),
            note=plain(each.metadata).get("note", ""),
            created=each.created,
        )


def is_disputed(intent: str) -> bool:
    """Whether a payment's dispute is open, or lost."""
    params: Any = {"payment_intent": intent, "limit": _PAGE}
    rows = _ask(lambda: list(_v1().disputes.list(params).data))
    return any(row.status not in ("won", "warning_closed") for row in rows)


def dispute_of(identifier: str) -> tuple[str, str]:
    """A dispute's payment intent and its status."""
    found = _ask(lambda: _v1().disputes.retrieve(identifier))
    return id_of(found.payment_intent), found.status


def verify(body: bytes, signature: str) -> dict[str, Any]:
    """A webhook's event, if Stripe signed it within the last five minutes; raises `Forged`."""
    if not settings.STRIPE_WEBHOOK_SECRET:
        raise Forged("No webhook can be told from a forged one without STRIPE_WEBHOOK_SECRET.")
    try:
        stripe.WebhookSignature.verify_header(
            body, signature, settings.STRIPE_WEBHOOK_SECRET, TOLERANCE
        )
        event = json.loads(body)
        return {"id": str(event["id"]), "type": str(event["type"]), "data": event["data"]}
    except (stripe.SignatureVerificationError, ValueError, KeyError, TypeError) as error:
        raise Forged(f"The webhook is not Stripe's: {error}") from error


def _ask(call: Callable[[], T]) -> T:
    """The answer, or what its lack means."""
    try:
        return call()
    except stripe.CardError as error:
        raise Declined(error.code or "card_declined", error.user_message or str(error)) from error
    except (stripe.APIConnectionError, stripe.RateLimitError) as error:
        raise Unanswered(str(error)) from error
    except stripe.StripeError as error:
        status = error.http_status or 500
        if status in _NOT_NOW:
            log.error("the payment provider does not serve us now", status=status)
            raise Unanswered(str(error)) from error
        if status >= 500 or isinstance(error, stripe.IdempotencyError):
            raise Failed(str(error)) from error
        raise Rejected(str(error)) from error


def _v1() -> Any:
    return _client(settings.STRIPE_KEY, settings.STRIPE_API_BASE).v1


@lru_cache(maxsize=4)
def _client(key: str, base: str) -> stripe.StripeClient:
    addresses: Any = {"api": base} if base else {}
    return stripe.StripeClient(
        key,
        base_addresses=addresses,
        max_network_retries=0,
        http_client=stripe.RequestsClient(timeout=_SECONDS),
    )


def _once(key: str) -> Any:
    return {"idempotency_key": f"platform-{key}"}


def _about(buyer: Buyer) -> dict[str, Any]:
    address = {"country": buyer.country, "line1": ", ".join(buyer.address.splitlines())}
    said = {"name": buyer.name, "email": buyer.email, "address": address if buyer.country else None}
    return {name: value for name, value in said.items() if value}


def _card(method: str) -> Card:
    found = _ask(lambda: _v1().payment_methods.retrieve(method))
    card = getattr(found, "card", None)
    shown = f"{card.brand} •••• {card.last4}" if card else str(found.type)
    return Card(found.id, shown)


def _open(params: Any, customer: str, checkout: str, back: str, key: str) -> RemoteCheckout:
    params |= {
        "allowed_payment_method_types": ["card"],
        "customer": customer,
        "success_url": back,
        "cancel_url": back,
        "metadata": {"checkout": checkout},
    }
    return as_checkout(_ask(lambda: _v1().checkout.sessions.create(params, _once(key))))
