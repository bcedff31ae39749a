"""Amounts as Stripe counts them: mostly the currency's minor units, as ISO 4217 has them.

The exceptions are of https://docs.stripe.com/currencies, "Zero-decimal currencies", "Three-decimal
currencies" and "Special cases".
"""

from kit.money import minor_exponent

LEAST = {"EUR": 50, "USD": 50, "GBP": 30, "JPY": 50, "KWD": 150}
"""The least that Stripe charges, in minor units; of other currencies 50."""
_DECIMALS = {"ISK": 2, "UGX": 2, "MGA": 0}
"""Where its amounts have other decimals than ISO 4217's, which all else here has."""


def chargeable(minor: int, currency: str) -> int:
    """What of an amount can be charged: the last digit of three decimals has to be 0.

    Nor is there a part of what Stripe counts in whole units.
    """
    exponent, more = _exponents(currency)
    step = int(10 ** max(int(exponent == 3), -more))
    return minor - minor % step


def is_too_small(minor: int, currency: str) -> bool:
    """Whether Stripe would not charge it."""
    return minor < LEAST.get(currency, 50)


def theirs(minor: int, currency: str) -> int:
    """An amount in the currency's minor unit, as Stripe counts it."""
    _, more = _exponents(currency)
    return _shifted(minor, more)


def ours(amount: int, currency: str) -> int:
    """What Stripe counts, in the currency's minor unit."""
    _, more = _exponents(currency)
    return _shifted(amount, -more)


def _exponents(currency: str) -> tuple[int, int]:
    """ISO 4217's decimals, and how many more Stripe has."""
    exponent = minor_exponent(currency)
    return exponent, _DECIMALS.get(currency.upper(), exponent) - exponent


def _shifted(amount: int, decimals: int) -> int:
    return amount * int(10**decimals) if decimals >= 0 else amount // int(10**-decimals)
