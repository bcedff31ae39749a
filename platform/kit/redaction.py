"""What people write that nobody should read in a log: masked by kind, as far as form gives it away.

Rules of form, not of meaning: they find addresses and numbers, not names. What must not be read at
all must not be logged.
"""

import re

from kit.logs import masked

_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[0-9A-Z]{4}){2,7}(?: ?[0-9A-Z]{1,4})?\b")
_DIGITS = re.compile(r"(?<![\w.])\+?\d(?:[ \-/().]{0,2}\d){6,18}(?![\w])")
_CARD_DIGITS = range(13, 20)


def redacted(text: str) -> str:
    """The text with mail addresses, IBANs, card and telephone numbers, and secrets masked."""
    text = _EMAIL.sub("[email]", masked(text))
    text = _IBAN.sub("[iban]", text)
    return _DIGITS.sub(_number, text)


def _number(found: re.Match[str]) -> str:
    digits = [int(each) for each in found[0] if each.isdigit()]
    if len(digits) in _CARD_DIGITS and _luhn(digits):
        return "[card]"
    return "[number]" if len(digits) >= 9 or found[0].startswith("+") else found[0]


def _luhn(digits: list[int]) -> bool:
    """ISO/IEC 7812-1, annex B."""
    doubled = [sum(divmod(2 * each, 10)) for each in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
