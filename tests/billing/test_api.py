"""Invoices, prices and credit over HTTP, each organization's own."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import AsyncClient
from redis import Redis

from billing import credit, lifecycle, standing
from billing.models import Account, Invoice
from kit.money import NANOS
from tenants.models import Scope
from tests import factories
from tests.billing import rows
from tests.billing.rows import NOW, entry
from tests.billing.test_invoicing import AFTER, close
from tests.billing.test_ledger import NOVEMBER, booked

pytestmark = [pytest.mark.urls("tests.billing.urls"), pytest.mark.django_db(transaction=True)]

HUNDRED = {"input_tokens": 60 * NANOS, "output_tokens": 40 * NANOS}
NUMBER = "INV-2026-000001"
PATHS = (
    "billing",
    "prices",
    "invoices",
    f"invoices/{NUMBER}",
    f"invoices/{NUMBER}.pdf",
    f"invoices/{NUMBER}.csv",
)


@pytest.fixture
def acme(transactional_db: None, redis: Redis) -> Account:
    """Alice's, with EUR 100 used in November."""
    rows.price("echo")
    found = rows.account("acme", credit_limit=300 * NANOS)
    booked(entry(found.organization_id, amounts=HUNDRED, label="my label"))
    return found


@pytest.fixture
def invoice(acme: Account) -> Invoice:
    """November's."""
    return close(acme)


@pytest.fixture
def key(acme: Account) -> str:
    """Of acme's."""
    return factories.api_key(acme.organization)[1]


@pytest.fixture
def strangers_key(transactional_db: None) -> str:
    """Bob's."""
    return factories.api_key(rows.account("globex").organization)[1]


@pytest.fixture
def weak_key(acme: Account) -> str:
    """May run models, not see money."""
    return factories.api_key(acme.organization, scopes=[Scope.INFERENCE.value])[1]


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing.api.account.timezone.now", lambda: NOW)


async def ask(path: str, key: str | None, **query: str) -> Any:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return await AsyncClient().get(f"/api/v1/{path}", query, headers=headers)


async def whole(answer: Any) -> str:
    return "".join([piece.decode() async for piece in answer.streaming_content])


@pytest.mark.parametrize("path", PATHS)
async def test_nobody_looks_without_a_key_or_the_scope(
    invoice: Invoice, weak_key: str, path: str
) -> None:
    assert (await ask(path, None)).status_code == 401
    assert (await ask(path, weak_key)).status_code == 403


@pytest.mark.parametrize("path", PATHS[3:])
async def test_others_invoices_are_not_there(
    invoice: Invoice, strangers_key: str, path: str
) -> None:
    answer = await ask(path, strangers_key)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_others_lists_do_not_show_them(invoice: Invoice, strangers_key: str) -> None:
    assert (await ask("invoices", strangers_key)).json() == {"data": [], "next": None}
    assert (await ask("invoices", strangers_key, before=NUMBER)).status_code == 404


async def test_an_invoice_is_read_with_its_lines(invoice: Invoice, key: str) -> None:
    said = (await ask(f"invoices/{NUMBER}", key)).json()
    assert (said["number"], said["kind"], said["status"]) == (NUMBER, "invoice", "open")
    assert (said["exact"], said["net"], said["tax"], said["total"]) == (
        "100.000000000",
        "100.00",
        "0.00",
        "100.00",
    )
    assert said["lines"][0] == {
        "kind": "use",
        "model": "echo",
        "meter": "input_tokens",
        "project": "",
        "label": "",
        "units": 10,
        "exact": "60.000000000",
        "amount": "60.00",
    }


async def test_the_pdf_is_a_pdf(invoice: Invoice, key: str) -> None:
    answer = await ask(f"invoices/{NUMBER}.pdf", key)
    assert (answer.status_code, answer["Content-Type"]) == (200, "application/pdf")
    assert answer.content.startswith(b"%PDF-")
    assert f'filename="{NUMBER}.pdf"' in answer["Content-Disposition"]


async def test_the_csv_has_the_usage(invoice: Invoice, key: str) -> None:
    answer = await ask(f"invoices/{NUMBER}.csv", key)
    lines = (await whole(answer)).splitlines()
    assert len(lines) == 2
    assert lines[1].endswith(",echo,finished,10,5" + ",0" * 9 + ",100.000000000,EUR,my label,,use")


@pytest.fixture
def many(acme: Account, invoice: Invoice) -> list[str]:
    """An invoice, two credit notes of one moment, a draft."""
    for _ in range(2):
        lifecycle.credit_note(invoice=invoice.pk, reason="r", now=AFTER, minor=10)
    close(acme, NOVEMBER.replace(month=10), AFTER, issue=False)
    return ["CN-2026-000002", "CN-2026-000001", NUMBER]


async def test_documents_are_listed_page_by_page_without_drafts(many: list[str], key: str) -> None:
    found: list[str] = []
    before: dict[str, str] = {}
    while True:
        page = (await ask("invoices", key, limit="1", **before)).json()
        found += [each["number"] for each in page["data"]]
        if page["next"] is None:
            break
        before = {"before": page["next"]}
    assert found == many


@pytest.mark.parametrize("limit", ["0", "101", "x", "-1", "", "\uff11"])
async def test_a_limit_that_is_none_is_refused(key: str, limit: str) -> None:
    answer = await ask("invoices", key, limit=limit)
    assert (answer.status_code, answer.json()["param"]) == (400, "limit")


@pytest.fixture
def running(acme: Account) -> Account:
    """With counters, and a request that holds EUR 2."""
    from tests.billing.test_credit import fresh, reserve

    credit.rebuild(acme.organization_id)
    reserve(fresh(), 2 * NANOS, organization=acme.organization_id)
    return acme


async def test_billing_says_where_the_organization_stands(running: Account, key: str) -> None:
    told = (await ask("billing", key)).json()
    assert told.pop("plan")["state"] == "none"
    assert told == {
        "organization": "acme",
        "currency": "EUR",
        "credit_limit": "300.000000000",
        "owed": "100.000000000",
        "held": "2.000000000",
        "prepaid": "0.000000000",
        "left": "198.000000000",
        "month": "2026-11",
        "spent": "100.000000000",
        "forecast": "127.659574468",
        "budgets": [],
        "refunds": [],
    }


@pytest.mark.parametrize(
    ("now", "due"),
    [
        (datetime(2026, 11, 1, tzinfo=UTC), 100 * 30 * 86_400),
        (datetime(2026, 11, 16, tzinfo=UTC), 200),
        (datetime(2026, 12, 1, tzinfo=UTC), 100),
        (datetime(2026, 12, 9, tzinfo=UTC), 100),
    ],
)
def test_a_forecast_goes_on_as_it_went(now: datetime, due: int) -> None:
    assert standing.forecast(100, month=NOVEMBER, now=now) == due


@pytest.fixture
def priced(acme: Account) -> Account:
    """Prices gone, in force, to come, and in another currency."""
    rows.price("echo", effective_from=NOW - timedelta(days=1), rates={"input_tokens": 5})
    rows.price("echo", effective_from=NOW + timedelta(days=1), rates={"input_tokens": 7})
    rows.price("other")
    rows.price("yen", currency="JPY")
    return acme


@pytest.fixture
def narrow_key(priced: Account) -> str:
    """For one model."""
    return factories.api_key(priced.organization, models=["other"])[1]


async def test_prices_are_those_in_force_and_to_come(
    priced: Account, key: str, narrow_key: str
) -> None:
    said = (await ask("prices", key)).json()["data"]
    assert [(each["model"], each["per_million"]["input_tokens"]) for each in said] == [
        ("echo", "0.000000005"),
        ("echo", "0.000000007"),
        ("other", "0.150000000"),
    ]
    assert said[0]["effective_from"] == "2026-11-23T12:00:00+00:00"
    said = (await ask("prices", narrow_key)).json()["data"]
    assert [each["model"] for each in said] == ["other"]


@pytest.fixture
def poor_key(transactional_db: None, redis: Redis) -> str:
    """Of an organization without an account."""
    return factories.api_key(factories.organization("globex"))[1]


async def test_without_an_account_there_is_no_standing(poor_key: str) -> None:
    for path in ("billing", "prices"):
        answer = await ask(path, poor_key)
        assert (answer.status_code, answer.json()["code"]) == (402, "no_billing_account")
