"""Rows that one process at a time works on: taken for some minutes, and free again if it dies."""

from datetime import datetime, timedelta

from django.db.models import Q

LEASE = timedelta(minutes=5)
_NONE_IS_SO_LONG = 2 * LEASE
"""Beyond what clocks of several machines differ by."""


def until(now: datetime) -> datetime:
    """The end of a lease that is taken now."""
    return now + LEASE


def free(now: datetime) -> Q:
    """Nobody's, or of one who died; or given by a clock that was ahead, and was set back."""
    far = Q(leased_until__gt=now + _NONE_IS_SO_LONG)
    return Q(leased_until=None) | Q(leased_until__lte=now) | far
