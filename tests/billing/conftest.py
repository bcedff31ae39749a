"""Organizations with accounts, and a price."""

from collections.abc import Iterator

import pytest

from billing import pricing
from billing.models import Account
from tests.billing import rows


@pytest.fixture(autouse=True)
def _fresh_prices() -> Iterator[None]:
    """Prices of this test alone."""
    pricing.forget()
    yield
    pricing.forget()


@pytest.fixture
def account(db: None) -> Account:
    """Acme's, which may owe EUR 100; and a price for the model echo."""
    rows.price("echo")
    return rows.account("acme")


@pytest.fixture
def other(db: None) -> Account:
    """Globex's."""
    return rows.account("globex")
