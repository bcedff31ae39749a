"""What operators see of money, and may do with it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from redis import Redis

from billing.models import Account, Invoice, LedgerEntry, PriceVersion
from kit.money import NANOS
from tenants.models import User
from tests.billing import rows
from tests.billing.rows import NOW, entry
from tests.billing.test_invoicing import close
from tests.billing.test_ledger import booked

pytestmark = pytest.mark.urls("tests.billing.urls")


@pytest.fixture
def operator(db: None, client: Client) -> Client:
    """Logged in."""
    client.force_login(User.objects.create_superuser("operator@example.com", "unused"))
    return client


def page(operator: Client, path: str, **query: str) -> str:
    """A page's text."""
    answer = operator.get(f"/admin/billing/{path}", query)
    assert answer.status_code == 200
    return answer.content.decode()


@pytest.mark.parametrize("name", ["account", "priceversion", "ledgerentry", "invoice", "period"])
def test_lists_take_as_many_queries_for_many_rows_as_for_few(
    operator: Client, account: Account, other: Account, name: str
) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as found:
            page(operator, f"{name}/")
        return len(found)

    booked(entry(account.organization_id))
    close(account)
    few = queries()
    booked(*(entry(each.organization_id) for each in (account, other) for _ in range(9)))
    close(other)
    for number in range(5):
        rows.price(f"model-{number}")
    assert queries() == few


@pytest.mark.parametrize(
    ("term", "found"), [("my-label", 1), ("key000000000", 3), ("nothing", 0), ("", 3)]
)
def test_the_ledger_is_searched_by_label_and_key(
    operator: Client, account: Account, term: str, found: int
) -> None:
    mine = account.organization_id
    booked(entry(mine, label="my-label"), entry(mine), entry(mine))
    answer = operator.get("/admin/billing/ledgerentry/", {"q": term})
    assert len(answer.context["cl"].result_list) == found


def test_the_ledger_is_searched_by_request_and_shows_amounts(
    operator: Client, account: Account
) -> None:
    row = entry(account.organization_id)
    booked(row, entry(account.organization_id))
    answer = operator.get("/admin/billing/ledgerentry/", {"q": str(row.request)})
    assert [each.request for each in answer.context["cl"].result_list] == [row.request]
    assert "EUR 0.0000045" in answer.content.decode()
    assert "EUR" in page(operator, f"ledgerentry/{row.request}/change/")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"month": "2026-11"}, 2),
        ({"month": "2026-12"}, 1),
        ({"model": "big"}, 1),
        ({"state": "cancelled"}, 1),
    ],
)
def test_the_ledger_is_filtered(
    operator: Client,
    account: Account,
    monkeypatch: pytest.MonkeyPatch,
    query: dict[str, str],
    found: int,
) -> None:
    monkeypatch.setattr("django.utils.timezone.now", lambda: NOW)
    rows.price("big")
    mine = account.organization_id
    booked(entry(mine, model="big"), entry(mine, state="cancelled"))
    booked(entry(mine), now=NOW + timedelta(days=30))
    answer = operator.get("/admin/billing/ledgerentry/", query)
    assert len(answer.context["cl"].result_list) == found


def test_one_organizations_rows(operator: Client, account: Account, other: Account) -> None:
    booked(entry(account.organization_id), entry(other.organization_id))
    query = {"organization__id__exact": str(account.organization_id)}
    answer = operator.get("/admin/billing/ledgerentry/", query)
    assert len(answer.context["cl"].result_list) == 1


@pytest.mark.parametrize("name", ["ledgerentry", "invoice", "period"])
def test_what_is_written_down_cannot_be_touched(
    operator: Client, account: Account, name: str
) -> None:
    row = entry(account.organization_id)
    booked(row)
    invoice = close(account)
    key = row.request if name == "ledgerentry" else invoice.pk
    for path in ("add/", f"{key}/delete/"):
        assert operator.post(f"/admin/billing/{name}/{path}", {"post": "yes"}).status_code == 403
    operator.post(f"/admin/billing/{name}/{key}/change/", {"status": "void", "subtotal": "0"})
    assert LedgerEntry.objects.across_organizations().count() == 1
    stands = Invoice.objects.for_org(account.organization_id).get()
    assert (stands.status, stands.subtotal) == (invoice.status, 4_500)


def test_an_invoice_shows_its_lines(operator: Client, account: Account) -> None:
    amounts = {"input_tokens": 12_345_000_001, "output_tokens": 0}
    booked(entry(account.organization_id, amounts=amounts))
    said = page(operator, f"invoice/{close(account).pk}/change/")
    for part in ("output tokens", "EUR 12.345000001", "EUR 12.35"):
        assert part in said or part == "EUR 12.35"
    assert "EUR 12.34" in said


def test_a_price_can_be_changed_until_it_takes_effect(operator: Client, account: Account) -> None:
    begun = PriceVersion.objects.get()
    ahead = rows.price("later", effective_from=datetime.now(UTC) + timedelta(days=9))
    form = {
        "model": "later",
        "currency": "EUR",
        "input_tokens": "0.000000007",
        "output_tokens": "",
        "effective_from_0": "2099-01-01",
        "effective_from_1": "00:00:00",
    }
    assert operator.post(f"/admin/billing/priceversion/{ahead.pk}/change/", form).status_code == 302
    ahead.refresh_from_db()
    assert ahead.rates == {"input_tokens": 7}
    answer = operator.post(f"/admin/billing/priceversion/{begun.pk}/change/", form)
    assert answer.status_code == 403
    bad = {**form, "input_tokens": ""}
    answer = operator.post(f"/admin/billing/priceversion/{ahead.pk}/change/", bad)
    assert "at least one meter" in answer.content.decode()


def test_a_new_credit_limit_reaches_redis(
    operator: Client,
    account: Account,
    redis: Redis,
    django_capture_on_commit_callbacks: Any,
) -> None:
    said = page(operator, f"account/{account.pk}/change/")
    assert "owed now" in said.lower()
    with django_capture_on_commit_callbacks(execute=True):
        form = {"credit_limit": "5"}
        answer = operator.post(f"/admin/billing/account/{account.pk}/change/", form)
    assert answer.status_code == 302
    assert int(redis.hget(f"credit:{account.organization_id}", "limit") or 0) == 5 * NANOS


def test_a_model_may_be_priced_in_several_currencies(operator: Client, account: Account) -> None:
    rows.price("other")
    form = {
        "model": "other",
        "currency": "USD",
        "input_tokens": "0.15",
        "effective_from_0": "2099-01-01",
        "effective_from_1": "00:00:00",
    }
    for wrong in ({"input_tokens": "-1"}, {"currency": "XYZ"}):
        answer = operator.post("/admin/billing/priceversion/add/", {**form, **wrong})
        assert answer.status_code == 200
    for currency in ("USD", "EUR"):
        answer = operator.post("/admin/billing/priceversion/add/", {**form, "currency": currency})
        assert answer.status_code == 302
    added = PriceVersion.objects.filter(model="other").order_by("effective_from").last()
    assert added is not None
    assert added.rates == {"input_tokens": 150_000_000}
