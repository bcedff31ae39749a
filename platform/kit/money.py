"""Money as integers: nanos, that is 10⁻⁹ of the currency unit. No float ever holds money."""

import re
from collections.abc import Sequence

NANOS = 1_000_000_000
PRICE_UNIT = 1_000_000
"""A price is nanos for so many units."""

_AMOUNT = re.compile(r"(\d{1,9})(?:\.(\d{1,9}))?", re.ASCII)
_CODES = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: (
        "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP "
        "BYN BZD CAD CDF CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD "
        "FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD "
        "KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD "
        "NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP "
        "SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED "
        "VES WST XCD XCG YER ZAR ZMW ZWG"
    ),
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
_EXPONENTS = {code: exponent for exponent, codes in _CODES.items() for code in codes.split()}
"""ISO 4217's minor units (its list one), with ANG and BGN, which it has dropped since 2025."""


class UnknownCurrency(ValueError):
    """No code of ISO 4217's: how many decimals it has would be anyone's guess."""


def amount(units: int, nanos_per_million: int) -> int:
    """What `units` cost, in nanos, rounded half to even."""
    return of_millionths(units * nanos_per_million)


def of_millionths(total: int) -> int:
    """Units times nanos for a million, summed, in nanos, rounded half to even."""
    return _half_even(total, PRICE_UNIT)


def share(nanos: int, part: int, whole: int) -> int:
    """`part` of `whole` of an amount, rounded half to even."""
    return _half_even(nanos * part, whole)


def minor_exponent(currency: str) -> int:
    """How many decimals the currency's minor unit has (EUR 2, JPY 0, KWD 3).

    Raises `UnknownCurrency`.
    """
    try:
        return _EXPONENTS[currency.upper()]
    except KeyError:
        raise UnknownCurrency(
            f"{currency!r} is no currency of ISO 4217; write it like EUR."
        ) from None


def to_minor(nanos: Sequence[int], currency: str) -> list[int]:
    """Lines in nanos as lines in minor units that add up to the rounded total.

    The total is rounded half to even once; the lines are floored and the units that are left go
    to the largest remainders (largest remainder method), the earlier line first on a tie.
    """
    unit = 10 ** (9 - minor_exponent(currency))
    lines = [value // unit for value in nanos]
    left = _half_even(sum(nanos), unit) - sum(lines)
    by_remainder = sorted(range(len(nanos)), key=lambda i: (-(nanos[i] % unit), i))
    for index in by_remainder[:left]:
        lines[index] += 1
    return lines


def from_minor(minor: int, currency: str) -> int:
    """An amount in the currency's minor unit, in nanos."""
    return int(minor * NANOS // 10 ** minor_exponent(currency))


def parse(text: str) -> int:
    """A decimal amount like `12.30` in nanos; raises ValueError on what is none, or finer."""
    found = _AMOUNT.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no amount; write it like 12.30, with up to nine decimals.")
    return int(found[1]) * NANOS + int((found[2] or "").ljust(9, "0"))


def show(nanos: int, currency: str) -> str:
    """An amount for people, exact: `EUR 0.000012300` loses its trailing zeros past the cents."""
    sign = "-" if nanos < 0 else ""
    whole, fraction = divmod(abs(nanos), NANOS)
    keep = _EXPONENTS.get(currency, 2)
    digits = f"{fraction:09d}"
    shown = digits[:keep] + digits[keep:].rstrip("0")
    return f"{currency} {sign}{whole:,}" + (f".{shown}" if shown else "")


def decimal(nanos: int) -> str:
    """An amount for programs, exact: `0.000012300`, always nine decimals."""
    sign = "-" if nanos < 0 else ""
    whole, fraction = divmod(abs(nanos), NANOS)
    return f"{sign}{whole}.{fraction:09d}"


def _half_even(numerator: int, denominator: int) -> int:
    quotient, remainder = divmod(numerator, denominator)
    twice = remainder * 2
    if twice > denominator or (twice == denominator and quotient % 2):
        quotient += 1
    return quotient
