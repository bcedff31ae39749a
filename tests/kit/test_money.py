"""Money: exact in integers, rounded once."""

from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import money

NANOS = st.integers(min_value=-(10**15), max_value=10**15)
CURRENCY = st.sampled_from(["EUR", "usd", "JPY", "KWD"])


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_an_amount_is_the_exact_product_rounded_half_to_even(units: int, price: int) -> None:
    exact = Decimal(units * price) / money.PRICE_UNIT
    assert money.amount(units, price) == int(exact.quantize(Decimal(1), ROUND_HALF_EVEN))


@pytest.mark.parametrize(
    ("units", "price", "nanos"), [(1, 500_000, 0), (3, 500_000, 2), (5, 500_000, 2), (0, 1, 0)]
)
def test_a_half_goes_to_the_even_nano(units: int, price: int, nanos: int) -> None:
    assert money.amount(units, price) == nanos


@pytest.mark.parametrize(
    ("currency", "decimals"),
    [
        ("EUR", 2),
        ("JPY", 0),
        ("VND", 0),
        ("CLP", 0),
        ("KWD", 3),
        ("JOD", 3),
        ("IQD", 3),
        ("CLF", 4),
    ],
)
def test_a_currency_has_the_decimals_that_iso_4217_gives_it(currency: str, decimals: int) -> None:
    assert money.minor_exponent(currency) == decimals
    assert money.from_minor(10**decimals, currency) == money.NANOS


@pytest.mark.parametrize("currency", ["XYZ", "", "EURO", "XAU"])
def test_what_is_no_currency_is_refused(currency: str) -> None:
    with pytest.raises(money.UnknownCurrency):
        money.to_minor([1], currency)


@given(st.lists(NANOS, max_size=20), CURRENCY)
def test_an_invoices_lines_add_up_to_its_rounded_total(lines: list[int], currency: str) -> None:
    unit = 10 ** (9 - money.minor_exponent(currency))
    minor = money.to_minor(lines, currency)
    assert sum(minor) == round(Fraction(sum(lines), unit))
    assert all(abs(m * unit - n) < unit for m, n in zip(minor, lines, strict=True))


@given(st.lists(NANOS, min_size=1, max_size=20), CURRENCY)
def test_a_line_that_is_whole_is_never_moved(lines: list[int], currency: str) -> None:
    unit = 10 ** (9 - money.minor_exponent(currency))
    minor = money.to_minor([line * unit for line in lines], currency)
    assert minor == lines


@pytest.mark.parametrize(
    ("nanos", "currency", "shown"),
    [
        (12_300, "EUR", "EUR 0.0000123"),
        (1_234_500_000_000, "EUR", "EUR 1,234.50"),
        (-500_000_000, "EUR", "EUR -0.50"),
        (5_000_000_000, "JPY", "JPY 5"),
        (5_500_000_000, "JPY", "JPY 5.5"),
        (1_000_000_000, "KWD", "KWD 1.000"),
    ],
)
def test_an_amount_is_shown_exactly(nanos: int, currency: str, shown: str) -> None:
    assert money.show(nanos, currency) == shown
