"""What is paid for before is taxed like what is paid later."""

from typing import Any

import pytest
from redis import Redis

from billing import credit, grants, invoicing, lifecycle
from billing.allowances import Grant
from billing.documents import as_data, invoice_pdf
from billing.invoicing import as_draft, recount
from billing.lifecycle import NotCreditable
from billing.models import Account, Invoice, TaxRate
from kit.money import NANOS
from tests.billing.rows import NOW, entry
from tests.billing.test_invoicing import AFTER, close
from tests.billing.test_ledger import NOVEMBER, booked
from tests.billing.test_payments import GOOD, collect, save_card, status
from tests.stripe.server import Double

USED = {"input_tokens": 60 * NANOS, "output_tokens": 40 * NANOS}


@pytest.fixture(autouse=True)
def _taxed(settings: Any, db: None, redis: Redis) -> None:
    """A seller in Hamburg, and 19 %."""
    settings.SELLER = {**settings.SELLER, "country": "DE"}
    TaxRate.objects.create(country="DE", rate=19_000, effective_from=NOVEMBER)


def give(account: Account, euros: int, kind: str) -> None:
    grants.give(
        organization=account.organization_id,
        amount=euros * NANOS,
        reason=kind,
        kind=kind,
        now=NOW,
    )


def used_up(account: Account) -> Invoice:
    """A month of 100 EUR."""
    booked(entry(account.organization_id, amounts=USED))
    return close(account)


def figures(invoice: Invoice) -> tuple[int, int, int, int]:
    """Taxed, tax, prepaid, due."""
    return invoice.taxed_minor, invoice.tax_minor, invoice.prepaid_minor, invoice.due_minor


@pytest.mark.parametrize(
    ("topped_up", "given", "says"),
    [
        (100, 0, (10_000, 1_900, 10_000, 1_900)),
        (30, 0, (10_000, 1_900, 3_000, 8_900)),
        (0, 30, (7_000, 1_330, 0, 8_330)),
        (50, 20, (8_000, 1_520, 5_000, 4_520)),
        (0, 0, (10_000, 1_900, 0, 11_900)),
    ],
)
def test_a_top_up_is_a_payment_and_a_gift_is_a_discount(
    account: Account, topped_up: int, given: int, says: tuple[int, ...]
) -> None:
    for kind, euros in (("gift", given), ("top_up", topped_up)):
        if euros:
            give(account, euros, kind)
    preview = invoicing.preview(organization=account.organization_id, month=NOVEMBER, now=NOW)
    assert preview.prepaid_minor == 0
    invoice = used_up(account)
    assert figures(invoice) == says
    assert invoice.status == "open"
    assert recount(invoice) == as_draft(invoice)
    assert sum(line.minor for line in invoice.lines.all()) == invoice.total_minor
    owed = credit.owed(account.organization_id)
    assert owed == (100 - topped_up - given) * NANOS
    data = as_data(invoice)
    assert data["net"] == f"EUR {says[0] / 100:.2f}"
    assert data["prepaid"] == (f"EUR -{topped_up}.00" if topped_up else "")
    assert invoice_pdf(invoice).startswith(b"%PDF")


def test_without_tax_what_is_prepaid_leaves_nothing_due(account: Account) -> None:
    TaxRate.objects.all().delete()
    give(account, 100, "top_up")
    invoice = used_up(account)
    assert (figures(invoice), invoice.status) == ((10_000, 0, 10_000, 0), "paid")


def test_an_invoice_from_before_is_recounted_as_it_was_made(account: Account) -> None:
    give(account, 30, "top_up")
    invoice = used_up(account)
    invoice.lines.filter(kind="prepaid").update(kind="grants", meter="grants")
    Invoice.objects.for_org(account.organization_id).update(prepaid_minor=0)
    invoice.refresh_from_db()
    assert recount(invoice) == as_draft(invoice)


@pytest.mark.parametrize("topped_up", [100, 30])
def test_a_credit_note_over_all_gives_prepaid_credit_back(account: Account, topped_up: int) -> None:
    give(account, topped_up, "top_up")
    invoice = used_up(account)
    if topped_up < 100:
        part = lifecycle.credit_note(invoice=invoice.pk, reason="slow", now=AFTER, minor=1_000)
        assert (part.due_minor, part.prepaid_minor) == (-1_190, 0)
    lifecycle.credit_note(invoice=invoice.pk, reason="wrong", now=AFTER)
    notes = Invoice.objects.for_org(account.organization_id).filter(kind="credit_note")
    assert sum(note.due_minor for note in notes) == -invoice.due_minor
    assert sum(note.tax_minor for note in notes) == -invoice.tax_minor
    invoice.refresh_from_db()
    assert (invoice.status, credit.owed(account.organization_id)) == ("paid", 0)
    back = Grant.objects.for_org(account.organization_id).filter(remaining__gt=0).get()
    assert (back.remaining, back.kind) == (topped_up * NANOS, "top_up")
    with pytest.raises(NotCreditable):
        lifecycle.credit_note(invoice=invoice.pk, reason="again", now=AFTER)


def test_the_card_pays_the_tax_on_what_was_prepaid(double: Double, account: Account) -> None:
    give(account, 100, "top_up")
    invoice = used_up(account)
    save_card(double, account, GOOD)
    collect()
    assert status(invoice) == "paid"
    (there,) = double.of("invoice")
    assert (there["total"], there["amount_paid"]) == (1_900, 1_900)
