"""Instants as callers write them."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime


def _in_utc(at: datetime) -> datetime:
    """PostgreSQL takes fewer offsets than ISO 8601 has: it is told none of them."""
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("in UTC that is before the year 1 or after 9999") from None


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A field of a form: an instant with its offset, in UTC once it is read."""
