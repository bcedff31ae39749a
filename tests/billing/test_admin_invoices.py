"""What operators do with invoices."""

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from redis import Redis

from billing.models import Account, Invoice
from kit.money import NANOS
from tenants.models import User
from tests.billing.rows import entry
from tests.billing.test_invoicing import close
from tests.billing.test_ledger import booked

pytestmark = pytest.mark.urls("tests.billing.urls")


@pytest.fixture
def operator(db: None, client: Client) -> Client:
    """Logged in."""
    client.force_login(User.objects.create_superuser("operator@example.com", "unused"))
    return client


@pytest.fixture
def invoice(account: Account, redis: Redis) -> Invoice:
    """Of EUR 100, open."""
    booked(entry(account.organization_id, amounts={"input_tokens": 100 * NANOS}))
    return close(account)


def post(
    operator: Client, invoice: Invoice, step: str, reason: str = "", credited: str = ""
) -> str:
    """The page after saving."""
    data = {"step": step, "reason": reason, "credited": credited}
    for prefix in ("lines", "moves"):
        data |= {f"{prefix}-TOTAL_FORMS": "0", f"{prefix}-INITIAL_FORMS": "0"}
    answer = operator.post(f"/admin/billing/invoice/{invoice.pk}/change/", data, follow=True)
    assert answer.status_code == 200
    invoice.refresh_from_db()
    return answer.content.decode()


def test_marking_as_paid_keeps_who_and_why(operator: Client, invoice: Invoice) -> None:
    said = post(operator, invoice, "paid")
    assert ("payment&#x27;s reference" in said, invoice.status) == (True, "open")
    post(operator, invoice, "paid", "transfer 0815")
    step = invoice.moves.last()
    assert step is not None
    assert (invoice.status, step.note, step.by) == ("paid", "transfer 0815", "operator@example.com")


def test_only_legal_steps_are_on_offer(operator: Client, invoice: Invoice) -> None:
    post(operator, invoice, "draft", "no way")
    assert invoice.status == "open"
    post(operator, invoice, "", "")
    assert invoice.moves.count() == 1


def test_a_draft_is_issued(operator: Client, account: Account, redis: Redis) -> None:
    booked(entry(account.organization_id, amounts={"input_tokens": 100 * NANOS}))
    draft = close(account, issue=False)
    post(operator, draft, "open")
    assert (draft.status, draft.number) == ("open", "INV-2026-000001")


def test_a_credit_note_is_made(operator: Client, invoice: Invoice) -> None:
    post(operator, invoice, "credit", "a bad model")
    note = invoice.credit_notes.for_org(invoice.organization_id).get()
    assert (note.total_minor, invoice.status) == (-10_000, "paid")
    assert "cannot be credited" in post(operator, invoice, "credit", "again")


def test_a_part_is_credited(operator: Client, invoice: Invoice) -> None:
    assert "2 decimals at most" in post(operator, invoice, "credit", "slow", "12.345")
    assert "Only a credit" in post(operator, invoice, "paid", "slow", "12.34")
    post(operator, invoice, "credit", "slow", "12.34")
    note = invoice.credit_notes.for_org(invoice.organization_id).get()
    assert (note.total_minor, invoice.status) == (-1_234, "open")
    assert "cannot be credited" in post(operator, invoice, "credit", "slow", "87.67")
    post(operator, invoice, "credit", "the rest")
    assert invoice.status == "paid"


def test_a_void_months_invoice_is_made_again(operator: Client, invoice: Invoice) -> None:
    post(operator, invoice, "void", "wrong buyer")
    post(operator, invoice, "again", "right buyer")
    again = Invoice.objects.for_org(invoice.organization_id).exclude(pk=invoice.pk).get()
    assert (again.number, again.status) == ("INV-2026-000002", "open")
    step = again.moves.get()
    assert (step.note, step.by) == ("right buyer", "operator@example.com")
    assert "invoice its month again" not in post(operator, invoice, "", "")


def test_the_pdf_is_a_click_away_for_those_who_may_see_it(
    operator: Client, invoice: Invoice, client: Client
) -> None:
    page = operator.get(f"/admin/billing/invoice/{invoice.pk}/change/").content.decode()
    link = f"/admin/billing/invoice/{invoice.pk}/pdf/"
    assert link in page
    assert operator.get(link).content.startswith(b"%PDF-")
    clerk = User.objects.create_user("clerk@example.com", "unused", is_staff=True)
    clerk.user_permissions.add(Permission.objects.get(codename="view_account"))
    client.force_login(clerk)
    assert client.get(link).status_code == 404


def test_nobody_deletes_an_invoice(operator: Client, invoice: Invoice) -> None:
    assert operator.post(f"/admin/billing/invoice/{invoice.pk}/delete/").status_code == 403


@pytest.mark.parametrize("name", ["billingdetails", "taxrate"])
def test_the_small_tables_have_pages(operator: Client, name: str) -> None:
    assert operator.get(f"/admin/billing/{name}/").status_code == 200
    assert operator.get(f"/admin/billing/{name}/add/").status_code == 200
