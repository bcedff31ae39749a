"""What an amount is in Stripe's own units."""

import pytest

from billing.stripe_amounts import chargeable, ours, theirs


@pytest.mark.parametrize(
    ("currency", "minor", "amount"),
    [
        ("EUR", 1234, 1234),
        ("VND", 100_000, 100_000),
        ("JPY", 500, 500),
        ("JOD", 1230, 1230),
        ("ISK", 500, 50_000),
        ("UGX", 500, 50_000),
        ("MGA", 50_000, 500),
    ],
)
def test_stripe_is_told_the_same_amount_in_its_own_units(
    currency: str, minor: int, amount: int
) -> None:
    assert theirs(minor, currency) == amount
    assert ours(amount, currency.lower()) == minor
    assert chargeable(minor, currency) == minor


@pytest.mark.parametrize(
    ("currency", "minor", "charged"), [("JOD", 1239, 1230), ("MGA", 1299, 1200), ("EUR", 99, 99)]
)
def test_what_stripe_cannot_express_is_not_charged(currency: str, minor: int, charged: int) -> None:
    assert chargeable(minor, currency) == charged
    assert ours(theirs(charged, currency), currency) == charged
