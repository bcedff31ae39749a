"""The billing page, as people meet it."""

from typing import Any

import pytest
from django.test import Client
from redis import Redis

from billing import checkouts, credit, topup_rules, topups
from billing.allowances import Budget
from billing.models import Account, TaxRate
from billing.receivables import Checkout, PaymentProfile
from kit.money import NANOS
from tenants.models import Role
from tests import factories
from tests.billing.rows import NOW, entry
from tests.billing.test_allowances import give
from tests.billing.test_invoicing import close
from tests.billing.test_ledger import booked
from tests.billing.test_payments import GOOD, save_card
from tests.stripe.server import Double

pytestmark = pytest.mark.usefixtures("redis")


@pytest.fixture
def alice(account: Account, client: Client, settings: Any, tmp_path: Any, redis: Redis) -> Client:
    """Acme's owner, logged in."""
    settings.STATIC_ROOT = tmp_path
    person = factories.user("alice")
    factories.member(person, account.organization)
    client.force_login(person)
    return client


def seen(client: Client, path: str = "") -> str:
    answer = client.get(f"/o/acme/billing{path}")
    assert answer.status_code == 200
    return answer.content.decode()


def test_the_page_shows_credit_budgets_and_invoices(alice: Client, account: Account) -> None:
    give(account, 5 * NANOS)
    booked(entry(account.organization_id, amounts={"input_tokens": 30 * NANOS, "output_tokens": 0}))
    invoice = close(account)
    form = {"scope": "project", "subject": "site", "amount": "50", "hard": "on"}
    assert alice.post("/o/acme/billing/budgets", form).status_code == 302
    page = seen(alice)
    for text in ("EUR 75.00", "project site", "EUR 50.00", "refuses", str(invoice.number)):
        assert text in page
    assert "paid by transfer" in page
    pdf = alice.get(f"/o/acme/billing/invoices/{invoice.number}.pdf")
    assert pdf.content.startswith(b"%PDF")
    row = Budget.objects.for_org(account.organization_id).get()
    assert alice.post(f"/o/acme/billing/budgets/{row.pk}/remove").status_code == 302
    assert "No budgets" in seen(alice)


def test_members_say_whom_invoices_are_made_out_to(
    alice: Client, account: Account, settings: Any
) -> None:
    settings.SELLER = {**settings.SELLER, "country": "DE"}
    TaxRate.objects.create(country="DE", rate=19_000, effective_from=NOW.date().replace(day=1))
    assert "Nobody has said yet" in seen(alice)
    form = {"name": "Acme GmbH", "address": "Weg 1\nHamburg", "country": "de", "vat_id": "DE1"}
    assert alice.post("/o/acme/billing/details", form).status_code == 302
    page = seen(alice)
    assert "vat_id" in page
    assert "Nobody has said yet" in page
    form["vat_id"] = "DE 123456789"
    assert alice.post("/o/acme/billing/details", form).status_code == 302
    page = seen(alice)
    for text in ("Acme GmbH", "Weg 1<br>Hamburg", "DE123456789"):
        assert text in page
    booked(entry(account.organization_id, amounts={"input_tokens": 30 * NANOS, "output_tokens": 0}))
    invoice = close(account)
    assert (invoice.buyer["name"], invoice.tax_minor) == ("Acme GmbH", 570)


def test_a_card_is_saved_by_way_of_a_page_at_the_provider(
    alice: Client, account: Account, double: Double
) -> None:
    answer = alice.post("/o/acme/billing/checkouts", {"kind": "card"})
    waiting = answer["Location"]
    assert "being opened" in alice.get(waiting).content.decode()
    row = Checkout.objects.for_org(account.organization_id).get()
    checkouts.open_page(row.pk, now=row.created_at)
    row.refresh_from_db()
    assert f'content="0; url={row.url}"' in alice.get(waiting).content.decode()
    double.give_card(str(row.remote), GOOD)
    checkouts.complete(str(row.remote), now=NOW)
    assert alice.get(waiting)["Location"] == "/o/acme/billing"
    assert "visa •••• 4242" in seen(alice)


def test_credit_is_bought_by_itself_until_that_is_stopped(
    alice: Client, account: Account, double: Double
) -> None:
    save_card(double, account, GOOD, NOW)
    form = {"below": "130", "amount": "60"}
    assert alice.post("/o/acme/billing/auto-top-up", form).status_code == 302
    page = seen(alice)
    for text in ("less than <strong>EUR 130.00", "<strong>EUR 60.00", 'value="60.00"'):
        assert text in page
    topups.watch(now=NOW)
    assert "EUR 60.00 on 2026-11-24 12:00 UTC, succeeded" in seen(alice)
    topup_rules.stop(organization=account.organization_id, why="The card was declined.")
    assert "The card was declined. Set it again" in seen(alice)
    alice.post("/o/acme/billing/auto-top-up", form)
    assert "stopped" not in seen(alice)
    for wrong in ({"below": "1", "amount": "0.001"}, {"below": "", "amount": "5"}):
        answer = alice.post("/o/acme/billing/auto-top-up", wrong, follow=True)
        assert any(f"{name}:" in answer.content.decode() for name in ("below", "amount"))
    assert alice.post("/o/acme/billing/auto-top-up/stop").status_code == 302
    assert "whenever little is left" in seen(alice)


def test_what_is_no_amount_is_told_on_the_page(alice: Client, account: Account) -> None:
    form = {"scope": "organization", "subject": "", "amount": "lots"}
    answer = alice.post("/o/acme/billing/budgets", form, follow=True)
    assert "is no amount" in answer.content.decode()
    assert credit.owed(account.organization_id) == 0


def test_a_viewer_sees_and_cannot_pay(
    account: Account, client: Client, settings: Any, tmp_path: Any, double: Double
) -> None:
    settings.STATIC_ROOT = tmp_path
    person = factories.user("vera")
    factories.member(person, account.organization, Role.VIEWER)
    client.force_login(person)
    assert "Save a card" not in seen(client)
    assert client.post("/o/acme/billing/checkouts", {"kind": "card"}).status_code == 403
    assert not PaymentProfile.objects.for_org(account.organization_id).exists()
