"""Calendar months, of UTC, named by their first day."""

from datetime import UTC, date, datetime, timedelta


def month_of(at: datetime) -> date:
    """The month of an instant."""
    return at.astimezone(UTC).date().replace(day=1)


def month_after(month: date) -> date:
    """The next month."""
    return (month + timedelta(days=31)).replace(day=1)


def month_before(month: date) -> date:
    """The month before."""
    return (month - timedelta(days=1)).replace(day=1)


def parse_month(text: str) -> date:
    """`2026-11` as a month; raises ValueError with what was wrong."""
    try:
        found = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC).date()
    except ValueError:
        raise ValueError(f"{text!r} is no month; write it like 2026-11.") from None
    if f"{found:%Y-%m}" != text:
        raise ValueError(f"{text!r} is no month; write it like 2026-11.")
    return found
