"""Accounts, prices and ledger entries, with whatever a test does not care about filled in."""

from datetime import UTC, datetime
from typing import Any

from billing import pricing
from billing.ledger import Entry
from billing.models import Account, PriceVersion
from kit.ids import request_id
from kit.money import NANOS
from tests import factories

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
RATES = {"input_tokens": 150 * NANOS // 1000, "output_tokens": 600 * NANOS // 1000}


def account(slug: str, **fields: Any) -> Account:
    """An account, and its organization."""
    return Account.objects.create(
        organization=factories.organization(slug),
        **{"currency": "EUR", "credit_limit": 100 * NANOS, **fields},
    )


def price(model: str, **fields: Any) -> PriceVersion:
    """A price list in force since 2020."""
    start = datetime(2020, 1, 1, tzinfo=UTC)
    row = PriceVersion.objects.create(
        model=model, **{"currency": "EUR", "rates": RATES, "effective_from": start, **fields}
    )
    pricing.forget()
    return row


def entry(organization: int, *, at: datetime = NOW, **fields: Any) -> Entry:
    """A finished request of 10 tokens in and 5 out, for 1,500 and 3,000 nanos."""
    amounts = fields.pop("amounts", {"input_tokens": 1_500, "output_tokens": 3_000})
    return Entry(
        **{
            "request": request_id(at),
            "organization": organization,
            "key": "key000000000",
            "model": "echo",
            "state": "finished",
            "currency": "EUR",
            "price_version": None,
            "region": "local",
            "units": {"input_tokens": 10, "output_tokens": 5},
            "amounts": amounts,
            "amount": sum(amounts.values()),
            **fields,
        }
    )
