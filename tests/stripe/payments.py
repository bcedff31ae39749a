"""Payment intents, charges, refunds and disputes."""

from typing import Any

from tests.stripe.state import Failure, State, require_chargeable

_REFUSALS = {
    "generic_decline": ("card_declined", "Your card was declined."),
    "insufficient_funds": ("card_declined", "Your card has insufficient funds."),
    "authentication_required": ("authentication_required", "Your card was declined. It wants you."),
}


def create_intent(state: State, form: dict[str, Any]) -> dict[str, Any]:
    """POST /v1/payment_intents, confirmed at once or not at all."""
    amount, currency = form["amount"], form["currency"]
    require_chargeable(amount, currency)
    customer = form.get("customer")
    if customer is not None:
        state.get("customer", customer)
    intent = new_intent(
        state, amount, currency, customer, form.get("metadata", {}), form.get("payment_method")
    )
    state.tell("payment_intent.created", intent)
    if form.get("confirm"):
        if not form.get("off_session"):
            raise Failure("Only off_session confirmations are served by this double.")
        confirm(state, intent, form.get("payment_method"))
    return intent


def new_intent(
    state: State,
    amount: int,
    currency: str,
    customer: str | None,
    metadata: dict[str, str],
    method: str | None = None,
) -> dict[str, Any]:
    """One that wants confirming."""
    return state.make(
        "pi",
        "payment_intent",
        amount=amount,
        amount_capturable=0,
        amount_received=0,
        capture_method="automatic_async",
        confirmation_method="automatic",
        currency=currency,
        customer=customer,
        latest_charge=None,
        metadata=dict(metadata),
        payment_method=method,
        payment_method_types=["card", "sepa_debit"],
        status="requires_confirmation" if method else "requires_payment_method",
    )


def confirm(
    state: State, intent: dict[str, Any], method: str | None, *, present: bool = False
) -> dict[str, Any]:
    """Charge the card; raises Stripe's 402 where it is declined. `present`: its holder is here."""
    if intent["status"] == "succeeded":
        raise Failure(
            "This PaymentIntent has already succeeded.", code="payment_intent_unexpected_state"
        )
    if intent["status"] == "processing":
        raise Failure("This PaymentIntent is processing.", code="payment_intent_unexpected_state")
    card = _card_of(state, intent, method)
    if card.kind != "card":
        intent["status"], intent["payment_method"] = "processing", method
        state.tell("payment_intent.processing", intent)
        return intent
    refusal = "" if present and card.decline == "authentication_required" else card.decline
    charge = _charge(state, intent, str(method), refusal)
    intent["latest_charge"], intent["payment_method"] = charge["id"], method
    if refusal:
        code, message = _REFUSALS[refusal]
        intent["status"] = "requires_payment_method"
        state.tell("charge.failed", charge)
        state.tell("payment_intent.payment_failed", intent)
        raise Failure(
            message,
            status=402,
            kind="card_error",
            code=code,
            decline_code=refusal,
            charge=charge["id"],
            payment_intent=dict(intent),
        )
    intent["status"], intent["amount_received"] = "succeeded", intent["amount"]
    state.tell("charge.succeeded", charge)
    state.tell("payment_intent.succeeded", intent)
    if card.disputes:
        dispute(state, charge)
    return intent


def clear(state: State, intent: dict[str, Any]) -> None:
    """Days later a debit has come in; the page or the invoice it was for is paid."""
    charge = _charge(state, intent, str(intent["payment_method"]), "")
    intent["status"], intent["latest_charge"] = "succeeded", charge["id"]
    intent["amount_received"] = intent["amount"]
    state.tell("charge.succeeded", charge)
    state.tell("payment_intent.succeeded", intent)
    for session in list(state.of("checkout.session", payment_intent=intent["id"])):
        session["payment_status"] = "paid"
        state.tell("checkout.session.async_payment_succeeded", session)


def _card_of(state: State, intent: dict[str, Any], method: str | None) -> Any:
    found = state.get("payment_method", method)
    if intent["customer"] and found["customer"] != intent["customer"]:
        raise Failure("The payment method does not belong to the customer.", param="payment_method")
    return state.cards[found["id"]]


def _charge(state: State, intent: dict[str, Any], method: str, refusal: str) -> dict[str, Any]:
    code, message = _REFUSALS.get(refusal, (None, None))
    return state.make(
        "ch",
        "charge",
        amount=intent["amount"],
        amount_captured=0 if refusal else intent["amount"],
        amount_refunded=0,
        billing_details={"address": None, "email": None, "name": None, "phone": None},
        captured=not refusal,
        currency=intent["currency"],
        customer=intent["customer"],
        disputed=False,
        failure_code=code,
        failure_message=message,
        metadata={},
        paid=not refusal,
        payment_intent=intent["id"],
        payment_method=method,
        refunded=False,
        status="failed" if refusal else "succeeded",
    )


def dispute(state: State, charge: dict[str, Any]) -> dict[str, Any]:
    """The card's holder wants the money back."""
    charge["disputed"] = True
    made = state.make(
        "dp",
        "dispute",
        amount=charge["amount"],
        balance_transactions=[],
        charge=charge["id"],
        currency=charge["currency"],
        enhanced_eligibility_types=[],
        evidence={"enhanced_evidence": {}},
        evidence_details={
            "due_by": state.now() + 7 * 86_400,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_method": "not_submitted",
            "submission_count": 0,
        },
        is_charge_refundable=False,
        metadata={},
        payment_intent=charge["payment_intent"],
        reason="fraudulent",
        status="needs_response",
    )
    state.tell("charge.dispute.created", made)
    return made


def close_dispute(state: State, made: dict[str, Any], status: str) -> None:
    """The bank has decided: `won` or `lost`."""
    made["status"] = status
    state.tell("charge.dispute.closed", made)


def create_refund(state: State, form: dict[str, Any]) -> dict[str, Any]:
    """POST /v1/refunds."""
    intent = state.get("payment_intent", form.get("payment_intent"))
    if intent["status"] != "succeeded":
        raise Failure("This PaymentIntent has no successful charge to refund.")
    charge = state.get("charge", intent["latest_charge"])
    left = charge["amount"] - charge["amount_refunded"]
    amount = form.get("amount", left)
    if charge["disputed"]:
        raise Failure("The charge is disputed.", code="charge_disputed")
    if left == 0:
        raise Failure("Charge has already been refunded.", code="charge_already_refunded")
    if not 0 < amount <= left:
        raise Failure(f"Refund amount ({amount}) is greater than what is left ({left}).")
    card = state.cards[charge["payment_method"]]
    charge["amount_refunded"] += amount
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]
    refund = state.make(
        "re",
        "refund",
        amount=amount,
        charge=charge["id"],
        currency=charge["currency"],
        metadata=form.get("metadata", {}),
        payment_intent=intent["id"],
        reason=form.get("reason"),
        status="pending" if card.refunds == "pending" else "succeeded",
    )
    del refund["livemode"]
    state.tell("refund.created", refund)
    state.tell("charge.refunded", charge)
    if card.refunds == "failed":
        state.later.append(lambda: end_refund(state, refund["id"], "failed"))
    return refund


def end_refund(state: State, identifier: str, status: str) -> None:
    """Days later the bank has `succeeded` in paying it out, or it `failed`."""
    refund = state.get("refund", identifier)
    refund["status"] = status
    if status == "failed":
        refund["failure_reason"] = "expired_or_canceled_card"
        charge = state.get("charge", refund["charge"])
        charge["amount_refunded"] -= refund["amount"]
        charge["refunded"] = False
        state.tell("refund.failed", refund)
    state.tell("refund.updated", refund)
    state.tell("charge.refund.updated", refund)
