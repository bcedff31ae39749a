"""Which request does what: paths of Stripe's API, their parameters' types, the state's moves."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import stripe.params
import stripe.params.billing_portal
import stripe.params.checkout

from tests.stripe import customers, invoices, payments
from tests.stripe.state import Failure, State, listed

P = stripe.params
Handler = Callable[[State, dict[str, Any], list[str], str], dict[str, Any]]
"""State, checked form, the path's ids, and the double's own address; what it answers."""


@dataclass(frozen=True, slots=True)
class Route:
    """A method and path, `{}` where an id stands."""

    method: str
    path: str
    params: type
    handler: Handler

    def matches(self, method: str, path: str) -> list[str] | None:
        """The ids in the path, or None."""
        found = re.fullmatch(self.path.replace("{}", "([^/]+)"), path)
        return list(found.groups()) if found and method == self.method else None


def _one(kind: str) -> Handler:
    return lambda state, form, ids, base: state.get(kind, ids[-1])


def _of(kind: str, do: Callable[..., dict[str, Any]], *, form: bool = True) -> Handler:
    def handler(state: State, given: dict[str, Any], ids: list[str], base: str) -> dict[str, Any]:
        subject = state.get(kind, ids[0])
        return do(state, subject, given) if form else do(state, subject)

    return handler


def _make(do: Callable[..., dict[str, Any]]) -> Handler:
    return lambda state, form, ids, base: do(state, form)


def _at(do: Callable[..., dict[str, Any]]) -> Handler:
    return lambda state, form, ids, base: do(state, form, base)


def _all(kind: str, path: str, *filters: str) -> Handler:
    def handler(state: State, form: dict[str, Any], ids: list[str], base: str) -> dict[str, Any]:
        wanted = {name: form[name] for name in filters if name in form}
        if ids:
            wanted["customer"] = ids[0]
        rows = list(_after(state.of(kind, **wanted), form))
        limit = form.get("limit", 10)
        if not 1 <= limit <= 100:
            raise Failure("limit must be from 1 to 100.", param="limit")
        return listed(rows[:limit], path, more=len(rows) > limit)

    return handler


def _after(rows: Iterator[dict[str, Any]], form: dict[str, Any]) -> Iterator[dict[str, Any]]:
    since = form.get("created", {}).get("gte", 0) if "created" in form else 0
    waiting = form.get("starting_after")
    for row in rows:
        if waiting is None and row["created"] >= since:
            yield row
        elif row["id"] == waiting:
            waiting = None


def _intent(state: State, form: dict[str, Any], ids: list[str], base: str) -> dict[str, Any]:
    found = state.get("payment_intent", ids[0])
    return _whole(state, found) if "latest_charge" in form.get("expand", []) else found


def _intents(state: State, form: dict[str, Any], ids: list[str], base: str) -> dict[str, Any]:
    page = _all("payment_intent", "/v1/payment_intents", "customer")(state, form, ids, base)
    if "data.latest_charge" in form.get("expand", []):
        page["data"] = [_whole(state, each) for each in page["data"]]
    return page


def _whole(state: State, intent: dict[str, Any]) -> dict[str, Any]:
    charge = intent["latest_charge"]
    return {**intent, "latest_charge": state.get("charge", charge)} if charge else intent


def _lines(state: State, form: dict[str, Any], ids: list[str], base: str) -> dict[str, Any]:
    lines = state.get("invoice", ids[0])["lines"]["data"]
    names = [line["id"] for line in lines]
    first = names.index(form["starting_after"]) + 1 if "starting_after" in form else 0
    limit = form.get("limit", 10)
    page = lines[first : first + limit]
    return listed(page, f"/v1/invoices/{ids[0]}/lines", more=first + limit < len(lines))


ROUTES = (
    Route("POST", "/v1/customers", P.CustomerCreateParams, _make(customers.create)),
    Route("GET", "/v1/customers/{}", P.CustomerRetrieveParams, _one("customer")),
    Route("POST", "/v1/customers/{}", P.CustomerUpdateParams, _of("customer", customers.update)),
    Route(
        "GET",
        "/v1/customers",
        P.CustomerListParams,
        _all("customer", "/v1/customers", "email"),
    ),
    Route(
        "POST",
        "/v1/customers/{}/tax_ids",
        P.CustomerTaxIdCreateParams,
        _of("customer", customers.create_tax_id),
    ),
    Route(
        "GET",
        "/v1/customers/{}/tax_ids",
        P.CustomerTaxIdListParams,
        _all("tax_id", "/v1/tax_ids"),
    ),
    Route(
        "DELETE",
        "/v1/customers/{}/tax_ids/{}",
        P.CustomerTaxIdDeleteParams,
        lambda state, form, ids, base: customers.delete_tax_id(
            state, state.get("customer", ids[0]), ids[1]
        ),
    ),
    Route("GET", "/v1/payment_methods/{}", P.PaymentMethodRetrieveParams, _one("payment_method")),
    Route("GET", "/v1/setup_intents/{}", P.SetupIntentRetrieveParams, _one("setup_intent")),
    Route(
        "POST",
        "/v1/checkout/sessions",
        P.checkout.SessionCreateParams,
        _at(customers.create_session),
    ),
    Route(
        "GET",
        "/v1/checkout/sessions/{}",
        P.checkout.SessionRetrieveParams,
        _of("checkout.session", customers.look, form=False),
    ),
    Route(
        "POST",
        "/v1/billing_portal/sessions",
        P.billing_portal.SessionCreateParams,
        _at(customers.create_portal),
    ),
    Route("POST", "/v1/invoices", P.InvoiceCreateParams, _make(invoices.create)),
    Route(
        "GET",
        "/v1/invoices",
        P.InvoiceListParams,
        _all("invoice", "/v1/invoices", "customer", "status"),
    ),
    Route("GET", "/v1/invoices/{}", P.InvoiceRetrieveParams, _one("invoice")),
    Route("GET", "/v1/invoices/{}/lines", P.InvoiceLineItemListParams, _lines),
    Route("POST", "/v1/invoiceitems", P.InvoiceItemCreateParams, _make(invoices.create_item)),
    Route(
        "POST",
        "/v1/invoices/{}/finalize",
        P.InvoiceFinalizeInvoiceParams,
        _of("invoice", invoices.finalize, form=False),
    ),
    Route("POST", "/v1/invoices/{}/pay", P.InvoicePayParams, _of("invoice", invoices.pay)),
    Route(
        "POST",
        "/v1/invoices/{}/void",
        P.InvoiceVoidInvoiceParams,
        _of("invoice", invoices.void, form=False),
    ),
    Route(
        "POST",
        "/v1/invoices/{}/mark_uncollectible",
        P.InvoiceMarkUncollectibleParams,
        _of("invoice", invoices.write_off, form=False),
    ),
    Route(
        "GET",
        "/v1/invoice_payments",
        P.InvoicePaymentListParams,
        _all("invoice_payment", "/v1/invoice_payments", "invoice", "status"),
    ),
    Route("POST", "/v1/credit_notes", P.CreditNoteCreateParams, _make(invoices.create_note)),
    Route(
        "GET",
        "/v1/credit_notes",
        P.CreditNoteListParams,
        _all("credit_note", "/v1/credit_notes", "invoice", "customer"),
    ),
    Route(
        "POST", "/v1/payment_intents", P.PaymentIntentCreateParams, _make(payments.create_intent)
    ),
    Route("GET", "/v1/payment_intents/{}", P.PaymentIntentRetrieveParams, _intent),
    Route(
        "GET",
        "/v1/payment_intents",
        P.PaymentIntentListParams,
        _intents,
    ),
    Route(
        "GET",
        "/v1/disputes",
        P.DisputeListParams,
        _all("dispute", "/v1/disputes", "payment_intent"),
    ),
    Route("GET", "/v1/disputes/{}", P.DisputeRetrieveParams, _one("dispute")),
    Route(
        "GET", "/v1/refunds", P.RefundListParams, _all("refund", "/v1/refunds", "payment_intent")
    ),
    Route("POST", "/v1/refunds", P.RefundCreateParams, _make(payments.create_refund)),
)
