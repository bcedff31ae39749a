"""Invoices from draft to paid, their items, and credit notes."""

from typing import Any

from tests.stripe import payments
from tests.stripe.state import LEAST, THREE_DECIMALS, Failure, State, listed

MOST_ITEMS = 250


def create(state: State, form: dict[str, Any]) -> dict[str, Any]:
    """POST /v1/invoices: a draft."""
    customer = state.get("customer", form.get("customer"))
    if form.get("auto_advance"):
        raise Failure("auto_advance would race with the platform; send false.")
    if form.get("pending_invoice_items_behavior", "exclude") != "exclude":
        raise Failure("Pending items are not included here.")
    number = form.get("number")
    if number and any(state.of("invoice", number=number)):
        raise Failure(f"An invoice with the number {number} exists.", param="number")
    currency = form.get("currency") or "usd"
    _require_one_currency(customer, currency)
    made = state.make(
        "in",
        "invoice",
        **dict.fromkeys(
            (
                *("amount_due", "amount_overpaid", "amount_paid", "amount_remaining"),
                *("amount_shipping", "attempt_count", "starting_balance", "subtotal", "total"),
                *("post_payment_credit_notes_amount", "pre_payment_credit_notes_amount"),
            ),
            0,
        ),
        attempted=False,
        auto_advance=False,
        automatic_tax={
            "disabled_reason": None,
            "enabled": False,
            "liability": None,
            "provider": None,
            "status": None,
        },
        collection_method=form.get("collection_method", "charge_automatically"),
        currency=currency,
        customer=customer["id"],
        default_payment_method=form.get("default_payment_method"),
        default_tax_rates=[],
        description=form.get("description"),
        discounts=[],
        ending_balance=None,
        issuer={"type": "self"},
        lines=listed([], ""),
        metadata=form.get("metadata", {}),
        number=number,
        payment_settings={
            "default_mandate": None,
            "payment_method_options": None,
            "payment_method_types": None,
        },
        payments=None,
        period_end=state.now(),
        period_start=state.now(),
        status="draft",
        status_transitions=dict.fromkeys(
            ("finalized_at", "marked_uncollectible_at", "paid_at", "voided_at")
        ),
    )
    made["lines"]["url"] = f"/v1/invoices/{made['id']}/lines"
    state.tell("invoice.created", made)
    return made


def _require_one_currency(customer: dict[str, Any], currency: str) -> None:
    if customer["currency"] not in (None, currency):
        raise Failure(
            f"You cannot combine currencies on a single customer: {customer['currency']}."
        )


def create_item(state: State, form: dict[str, Any]) -> dict[str, Any]:
    """POST /v1/invoiceitems, on a draft."""
    invoice = state.get("invoice", form.get("invoice"))
    if invoice["status"] != "draft":
        raise Failure("You can only modify a draft invoice.", code="invoice_not_editable")
    if form.get("customer") != invoice["customer"] or form.get("currency") != invoice["currency"]:
        raise Failure("Customer and currency must be the invoice's.", param="customer")
    if len(invoice["lines"]["data"]) >= MOST_ITEMS:
        raise Failure(f"An invoice has at most {MOST_ITEMS} items.", code="invoice_no_more_items")
    amount, period = form["amount"], {"start": state.now(), "end": state.now()}
    shared = {
        "amount": amount,
        "currency": invoice["currency"],
        "description": form.get("description"),
        "discountable": False,
        "discounts": [],
        "invoice": invoice["id"],
        "metadata": form.get("metadata", {}),
        "period": period,
        "quantity": 1,
        "quantity_decimal": "1",
    }
    made = state.make(
        "ii",
        "invoiceitem",
        customer=invoice["customer"],
        date=state.now(),
        proration=False,
        **shared,
    )
    del made["created"]
    line = state.make("il", "line_item", subtotal=amount, **shared)
    del line["created"]
    invoice["lines"]["data"].append(line)
    total = invoice["total"] + amount
    invoice |= dict.fromkeys(("subtotal", "total", "amount_due", "amount_remaining"), total)
    return made


def finalize(state: State, invoice: dict[str, Any]) -> dict[str, Any]:
    """POST /v1/invoices/{id}/finalize."""
    if invoice["status"] != "draft":
        raise Failure("This invoice is already finalized.", code="invoice_not_editable")
    total, currency = invoice["total"], invoice["currency"]
    if currency in THREE_DECIMALS and total % 10:
        raise Failure(f"Invalid total {total}: {currency} wants a last digit of 0.")
    customer = state.get("customer", invoice["customer"])
    customer["currency"] = currency
    invoice["status"] = "open"
    invoice["status_transitions"]["finalized_at"] = state.now()
    state.tell("invoice.finalized", invoice)
    if total < LEAST[currency]:
        customer["balance"] += total
        invoice |= {"amount_due": 0, "amount_remaining": 0, "ending_balance": customer["balance"]}
        _paid(state, invoice)
        return invoice
    intent = payments.new_intent(state, total, currency, invoice["customer"], {})
    state.make(
        "inpay",
        "invoice_payment",
        amount_paid=None,
        amount_requested=total,
        currency=currency,
        invoice=invoice["id"],
        is_default=True,
        payment={"payment_intent": intent["id"], "type": "payment_intent"},
        status="open",
        status_transitions={"canceled_at": None, "paid_at": None},
    )
    return invoice


def pay(state: State, invoice: dict[str, Any], form: dict[str, Any]) -> dict[str, Any]:
    """POST /v1/invoices/{id}/pay: charges the card that is saved, or notes a payment elsewhere."""
    if invoice["status"] == "paid":
        raise Failure("Invoice is already paid", code="invoice_already_paid")
    if invoice["status"] not in ("open", "uncollectible"):
        raise Failure(f"You cannot pay an invoice that is {invoice['status']}.")
    [record] = state.of("invoice_payment", invoice=invoice["id"])
    if form.get("paid_out_of_band"):
        record["status"] = "canceled"
        record["status_transitions"]["canceled_at"] = state.now()
        invoice["amount_paid"], invoice["amount_remaining"] = invoice["amount_due"], 0
        _paid(state, invoice)
        return invoice
    customer = state.get("customer", invoice["customer"])
    saved = customer["invoice_settings"]["default_payment_method"]
    method = form.get("payment_method") or invoice["default_payment_method"] or saved
    if method is None:
        raise Failure(
            "There is no `default_payment_method` set on this Customer or Invoice. Please set one."
        )
    intent = state.get("payment_intent", record["payment"]["payment_intent"])
    intent["amount"] = invoice["amount_remaining"]
    invoice["attempted"], invoice["attempt_count"] = True, invoice["attempt_count"] + 1
    try:
        payments.confirm(state, intent, method)
    except Failure as failure:
        if failure.status == 402:
            state.tell("invoice.payment_failed", invoice)
        raise
    if intent["status"] == "succeeded":
        clear(state, invoice)
    return invoice


def clear(state: State, invoice: dict[str, Any]) -> None:
    """The money is there."""
    [record] = state.of("invoice_payment", invoice=invoice["id"])
    invoice["amount_paid"], invoice["amount_remaining"] = invoice["amount_remaining"], 0
    record["status"], record["amount_paid"] = "paid", invoice["amount_paid"]
    record["status_transitions"]["paid_at"] = state.now()
    state.tell("invoice_payment.paid", record)
    _paid(state, invoice)


def _paid(state: State, invoice: dict[str, Any]) -> None:
    invoice["status"] = "paid"
    invoice["status_transitions"]["paid_at"] = state.now()
    state.tell("invoice.paid", invoice)
    state.tell("invoice.payment_succeeded", invoice)


def void(state: State, invoice: dict[str, Any]) -> dict[str, Any]:
    """POST /v1/invoices/{id}/void."""
    if invoice["status"] not in ("open", "uncollectible"):
        raise Failure(f"You cannot void an invoice that is {invoice['status']}.")
    invoice["status"] = "void"
    invoice["status_transitions"]["voided_at"] = state.now()
    state.tell("invoice.voided", invoice)
    return invoice


def write_off(state: State, invoice: dict[str, Any]) -> dict[str, Any]:
    """POST /v1/invoices/{id}/mark_uncollectible."""
    if invoice["status"] != "open":
        raise Failure(f"You cannot write off an invoice that is {invoice['status']}.")
    invoice["status"] = "uncollectible"
    invoice["status_transitions"]["marked_uncollectible_at"] = state.now()
    state.tell("invoice.marked_uncollectible", invoice)
    return invoice


def create_note(state: State, form: dict[str, Any]) -> dict[str, Any]:
    """POST /v1/credit_notes: less to pay of an open invoice, money back of a paid one."""
    invoice = state.get("invoice", form.get("invoice"))
    amount = form.get("amount", 0)
    credited = sum(each["amount"] for each in state.of("credit_note", invoice=invoice["id"]))
    if invoice["status"] not in ("open", "paid", "uncollectible"):
        raise Failure(f"You cannot credit an invoice that is {invoice['status']}.")
    if not 0 < amount <= invoice["total"] - credited:
        raise Failure(f"The credit note's amount {amount} is more than what is left.")
    is_paid = invoice["status"] == "paid"
    refunds = _give_back(state, invoice, amount, form) if is_paid else []
    before, after = (0, amount) if is_paid else (amount, 0)
    count = sum(1 for _ in state.of("credit_note", invoice=invoice["id"])) + 1
    made = state.make(
        "cn",
        "credit_note",
        amount=amount,
        amount_shipping=0,
        currency=invoice["currency"],
        customer=invoice["customer"],
        discount_amount=0,
        discount_amounts=[],
        invoice=invoice["id"],
        lines=listed([], "/v1/credit_notes/lines"),
        memo=form.get("memo"),
        metadata=form.get("metadata", {}),
        number=f"{invoice['number']}-CN-{count:02d}",
        out_of_band_amount=form.get("out_of_band_amount"),
        pdf="about:blank",
        post_payment_amount=after,
        pre_payment_amount=before,
        pretax_credit_amounts=[],
        reason=form.get("reason"),
        refunds=refunds,
        status="issued",
        subtotal=amount,
        total=amount,
        type="post_payment" if is_paid else "pre_payment",
    )
    invoice["post_payment_credit_notes_amount"] += after
    invoice["pre_payment_credit_notes_amount"] += before
    if before:
        invoice["amount_remaining"] -= before
        invoice["amount_due"] -= before
        if invoice["amount_remaining"] == 0:
            _paid(state, invoice)
    state.tell("credit_note.created", made)
    return made


def _give_back(
    state: State, invoice: dict[str, Any], amount: int, form: dict[str, Any]
) -> list[dict[str, Any]]:
    back, elsewhere = form.get("refund_amount", 0), form.get("out_of_band_amount", 0)
    if back + elsewhere + form.get("credit_amount", 0) != amount:
        raise Failure("refund_amount, credit_amount and out_of_band_amount must sum to the total.")
    if not back:
        return []
    [record] = state.of("invoice_payment", invoice=invoice["id"])
    if record["status"] != "paid":
        raise Failure("The invoice was not paid by a charge that could be refunded.")
    intent = record["payment"]["payment_intent"]
    refund = payments.create_refund(state, {"payment_intent": intent, "amount": back})
    return [
        {
            "amount_refunded": back,
            "refund": refund["id"],
            "payment_record_refund": None,
            "type": "refund",
        }
    ]
