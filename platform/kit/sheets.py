"""CSV that spreadsheets may open."""

import csv
import io
from collections.abc import Iterable

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def cell(text: str) -> str:
    """A spreadsheet must not take for a formula what somebody called themselves."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def rows(some: Iterable[Iterable[str]]) -> bytes:
    """Lines of CSV (RFC 4180)."""
    out = io.StringIO()
    csv.writer(out).writerows(some)
    return out.getvalue().encode()
