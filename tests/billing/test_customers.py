"""What customers that found themselves may owe."""

import pytest
from django.core.exceptions import ImproperlyConfigured
from pytest_django import Settings

from billing import customers
from billing.customers import Terms


def test_what_the_settings_offer_is_in_their_currency(settings: Settings) -> None:
    settings.NEW_CUSTOMER_CURRENCY, settings.NEW_CUSTOMER_CREDIT = "KWD", "1.500"
    assert customers.offered() == Terms("KWD", 1_500_000_000)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NEW_CUSTOMER_CURRENCY", "EURO"),
        ("NEW_CUSTOMER_CURRENCY", "usd"),
        ("NEW_CUSTOMER_CREDIT", "5,00"),
        ("NEW_CUSTOMER_CREDIT", "-1"),
        ("NEW_CUSTOMER_CREDIT", "99999999.99"),
    ],
)
def test_no_process_starts_on_terms_that_are_none(
    settings: Settings, name: str, value: str
) -> None:
    setattr(settings, name, value)
    with pytest.raises(ImproperlyConfigured, match=name):
        customers.offered()
