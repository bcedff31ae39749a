"""Customers, their tax ids and cards, Checkout, and the customer portal."""

from typing import Any

from tests.stripe import payments
from tests.stripe.state import CARDS, Card, Failure, State, require_chargeable

_NO_ADDRESS = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))


def create(state: State, form: dict[str, Any]) -> dict[str, Any]:
    """POST /v1/customers."""
    made = state.make(
        "cus",
        "customer",
        address=None,
        balance=0,
        currency=None,
        delinquent=False,
        description=None,
        email=None,
        invoice_settings={
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        metadata={},
        name=None,
        phone=None,
        tax_exempt="none",
    )
    update(state, made, form, quietly=True)
    state.tell("customer.created", made)
    return made


def update(
    state: State, customer: dict[str, Any], form: dict[str, Any], *, quietly: bool = False
) -> dict[str, Any]:
    """POST /v1/customers/{id}."""
    for name in ("email", "name", "description", "phone", "tax_exempt"):
        if name in form:
            customer[name] = form[name] or None
    if "address" in form:
        customer["address"] = {**_NO_ADDRESS, **form["address"]}
    customer["metadata"] |= form.get("metadata", {})
    method = form.get("invoice_settings", {}).get("default_payment_method")
    if method is not None:
        if state.get("payment_method", method)["customer"] != customer["id"]:
            raise Failure("The customer does not have this payment method.")
        customer["invoice_settings"]["default_payment_method"] = method
    if not quietly:
        state.tell("customer.updated", customer)
    return customer


def create_tax_id(state: State, customer: dict[str, Any], form: dict[str, Any]) -> dict[str, Any]:
    """POST /v1/customers/{id}/tax_ids."""
    if form["type"] == "eu_vat" and not (form["value"][:2].isalpha() and form["value"][2:]):
        raise Failure("Invalid value for eu_vat.", code="tax_id_invalid", param="value")
    if any(each["value"] == form["value"] for each in state.of("tax_id", customer=customer["id"])):
        raise Failure("The tax id is there already.")
    made = state.make(
        "txi",
        "tax_id",
        country=form["value"][:2],
        customer=customer["id"],
        type=form["type"],
        value=form["value"],
        verification={"status": "pending", "verified_address": None, "verified_name": None},
    )
    state.tell("customer.tax_id.created", made)
    return made


def delete_tax_id(state: State, customer: dict[str, Any], identifier: str) -> dict[str, Any]:
    """DELETE /v1/customers/{id}/tax_ids/{id}."""
    found = state.get("tax_id", identifier)
    if found["customer"] != customer["id"]:
        raise Failure("No such tax id of this customer.", status=404, code="resource_missing")
    state.tell("customer.tax_id.deleted", found)
    del state.objects[identifier]
    return {**found, "deleted": True}


def create_session(state: State, form: dict[str, Any], base: str) -> dict[str, Any]:
    """POST /v1/checkout/sessions."""
    mode = form.get("mode")
    if mode not in ("setup", "payment"):
        raise Failure("This double serves the modes setup and payment.", param="mode")
    if not form.get("success_url"):
        raise Failure("You must provide success_url.", param="success_url")
    if mode == "setup" and not (form.get("currency") or form.get("allowed_payment_method_types")):
        raise Failure("In setup mode say currency or which types.", param="currency")
    customer = state.get("customer", form.get("customer"))
    total, currency = _total(form) if mode == "payment" else (None, form.get("currency"))
    made = state.make(
        "cs_test",
        "checkout.session",
        amount_subtotal=total,
        amount_total=total,
        automatic_tax={"enabled": False, "liability": None, "provider": None, "status": None},
        cancel_url=form.get("cancel_url"),
        client_reference_id=form.get("client_reference_id"),
        currency=currency,
        custom_fields=[],
        custom_text=dict.fromkeys(
            ("after_submit", "shipping_address", "submit", "terms_of_service_acceptance")
        ),
        customer=customer["id"],
        expires_at=state.now() + 86_400,
        metadata=form.get("metadata", {}),
        mode=mode,
        payment_intent=None,
        payment_method_types=form.get("allowed_payment_method_types") or ["card", "sepa_debit"],
        payment_status="no_payment_required" if mode == "setup" else "unpaid",
        setup_intent=None,
        shipping_options=[],
        status="open",
        success_url=form["success_url"],
        url=None,
    )
    made["url"] = f"{base}/pay/{made['id']}"
    if mode == "setup":
        made["setup_intent"] = _setup_intent(state, customer["id"])["id"]
    return made


def _total(form: dict[str, Any]) -> tuple[int, str]:
    lines = form.get("line_items") or []
    if not lines:
        raise Failure("You must provide line_items.", param="line_items")
    data = [line["price_data"] for line in lines]
    total = sum(
        each["unit_amount"] * line.get("quantity", 1)
        for each, line in zip(data, lines, strict=True)
    )
    require_chargeable(total, data[0]["currency"])
    return total, data[0]["currency"]


def _setup_intent(state: State, customer: str) -> dict[str, Any]:
    return state.make(
        "seti",
        "setup_intent",
        customer=customer,
        metadata={},
        payment_method=None,
        payment_method_types=["card", "sepa_debit"],
        status="requires_payment_method",
        usage="off_session",
    )


def complete(state: State, session: dict[str, Any], number: str) -> None:
    """What a person does on Checkout's page: give a card."""
    if session["status"] != "open":
        raise Failure("The session is over.")
    card = CARDS[number]
    if card.kind not in session["payment_method_types"]:
        raise Failure(f"{card.kind} is not offered on this page.")
    if card.refuses_setup:
        raise Failure(
            "Your card was declined.", status=402, kind="card_error", code="card_declined"
        )
    method = state.make(
        "pm",
        "payment_method",
        billing_details={
            "address": _NO_ADDRESS,
            "email": None,
            "name": None,
            "phone": None,
            "tax_id": None,
        },
        customer=session["customer"],
        metadata={},
        type=card.kind,
        **{card.kind: _shown(card)},
    )
    state.cards[method["id"]] = card
    _finish(state, session, method)


def _shown(card: Card) -> dict[str, Any]:
    if card.kind != "card":
        names = ("bank_code", "branch_code", "country", "fingerprint", "generated_from")
        return {**dict.fromkeys(names), "last4": card.number[-4:]}
    return {
        "brand": "visa",
        "checks": None,
        "country": "US",
        "exp_month": 12,
        "exp_year": 2034,
        "funding": "credit",
        "last4": card.number[-4:],
        "networks": None,
        "three_d_secure_usage": None,
        "wallet": None,
    }


def _finish(state: State, session: dict[str, Any], method: dict[str, Any]) -> None:
    if session["mode"] == "setup":
        intent = state.get("setup_intent", session["setup_intent"])
        intent["status"], intent["payment_method"] = "succeeded", method["id"]
        state.tell("setup_intent.succeeded", intent)
    else:
        intent = payments.new_intent(
            state, session["amount_total"], session["currency"], session["customer"], {}
        )
        session["payment_intent"] = intent["id"]
        payments.confirm(state, intent, method["id"], present=True)
        if intent["status"] == "succeeded":
            session["payment_status"] = "paid"
    session["status"], session["url"] = "complete", None
    state.tell("payment_method.attached", method)
    state.tell("checkout.session.completed", session)


def look(state: State, session: dict[str, Any]) -> dict[str, Any]:
    """GET /v1/checkout/sessions/{id}: one that nobody finished is over after a day."""
    if session["status"] == "open" and state.now() >= session["expires_at"]:
        session["status"], session["url"] = "expired", None
        state.tell("checkout.session.expired", session)
    return session


def create_portal(state: State, form: dict[str, Any], base: str) -> dict[str, Any]:
    """POST /v1/billing_portal/sessions."""
    customer = state.get("customer", form.get("customer"))
    made = state.make(
        "bps",
        "billing_portal.session",
        configuration="bpc_000000000000000000000001",
        customer=customer["id"],
        flow=None,
        locale=None,
        on_behalf_of=None,
        return_url=form.get("return_url"),
        url="",
    )
    made["url"] = f"{base}/portal/{made['id']}"
    return made
