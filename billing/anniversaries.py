"""The same day and hour of later months, by the calendar and the clocks of a place."""

from calendar import monthrange
from datetime import UTC, datetime
from zoneinfo import ZoneInfo


def anniversary(anchor: datetime, months: int, zone: str) -> datetime:
    """The moment `months` after `anchor` as the clocks in `zone` say it, in UTC.

    Of the 31st, in a shorter month, it is the last day, and in the next longer one the 31st again:
    always counted from the anchor. An hour that the clocks leave out is the one after it.
    """
    local = anchor.astimezone(ZoneInfo(zone))
    year, month = divmod(local.year * 12 + local.month - 1 + months, 12)
    day = min(local.day, monthrange(year, month + 1)[1])
    return local.replace(year=year, month=month + 1, day=day, fold=0).astimezone(UTC)
