"""One model in several currencies: each account is served, booked and billed in its own."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import AsyncClient

from billing import credit, invoicing, pricing
from billing.models import Account, LedgerEntry, PriceVersion
from inference.worker import Host
from tenants.models import Organization
from tests import factories
from tests.inference.parts import ECHO, in_schema, serving

pytestmark = pytest.mark.django_db(transaction=True)

CHAT = {"model": ECHO, "messages": [{"role": "user", "content": "hello"}]}
YEN = {"input_tokens": 200_000_000_000, "output_tokens": 400_000_000_000}


@pytest.fixture
def key(acme: Organization, account: Account) -> str:
    """Acme's program's key; its account is in euros."""
    return factories.api_key(acme)[1]


@pytest.fixture
def yen(account: Account) -> PriceVersion:
    """The echo model's price in yen, beside that in euros."""
    return PriceVersion.objects.create(
        model=ECHO, currency="JPY", rates=YEN, effective_from=datetime(2026, 1, 1, tzinfo=UTC)
    )


def in_yen(account: Account) -> None:
    """Have an account, unused so far, in yen."""
    Account.objects.for_org(account.organization_id).update(
        currency="JPY", credit_limit=1_000_000_000_000
    )
    credit.renew(account.organization_id)


async def ask(key: str) -> Any:
    return await AsyncClient().post(
        "/v1/chat/completions",
        data=json.dumps(CHAT),
        content_type="application/json",
        headers={"Authorization": f"Bearer {key}"},
    )


def bill(account: Account, cost: Any) -> list[tuple[str, int]]:
    """What was booked, once it is; the invoice says the same."""
    rows = LedgerEntry.objects.for_org(account.organization_id)
    booked = list(rows.values_list("currency", "amount"))
    month = rows.get().month
    invoice = invoicing.close_month(
        organization=account.organization_id, month=month, now=datetime.now(UTC), early=True
    )
    assert [(invoice.currency, invoice.subtotal)] == booked
    assert (cost["currency"], cost["amount_nanos"]) == booked[0]
    return booked


@pytest.mark.parametrize("currency", ["EUR", "JPY"])
async def test_a_request_is_admitted_booked_and_billed_in_its_accounts_currency(
    account: Account, yen: PriceVersion, key: str, host: Host, currency: str
) -> None:
    if currency == "JPY":
        await in_schema("public", lambda: in_yen(account))
    with serving(host):
        answer = await ask(key)
    usage = answer.json()["usage"]
    tokens = usage["prompt_tokens"], usage["completion_tokens"]
    rates = {"EUR": (1_000, 2_000), "JPY": (200_000, 400_000)}[currency]
    due = sum(count * rate for count, rate in zip(tokens, rates, strict=True))
    booked = await in_schema("public", lambda: bill(account, usage["cost"]))
    assert booked == [(currency, due)]


async def test_an_account_whose_currency_was_not_known_yet_is_priced_anew(
    account: Account, yen: PriceVersion, key: str, host: Host
) -> None:
    assert (await pricing.price_of(ECHO, organization=account.organization_id)).currency == "EUR"
    await in_schema("public", lambda: in_yen(account))
    with serving(host):
        answer = await ask(key)
    assert answer.json()["usage"]["cost"]["currency"] == "JPY"


async def test_an_account_in_a_currency_without_a_price_is_refused_before_anything_runs(
    account: Account, key: str, host: Host
) -> None:
    await pricing.price_of(ECHO, organization=account.organization_id)
    await in_schema("public", lambda: in_yen(account))
    for _ in range(2):
        answer = await ask(key)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_price")
        assert "no price yet in JPY" in answer.json()["error"]["message"]
    counters = await in_schema("public", lambda: credit.counters(account.organization_id))
    assert counters is not None
    assert counters.reserved == 0
