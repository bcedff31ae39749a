"""Closing every month that has ended: several at a time, each by itself, asked again and again."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import cast

import structlog
from django.db import close_old_connections, connection

from billing.invoicing import MonthClosed, close_month
from billing.models import Invoice
from billing.months import month_before, month_of

log = structlog.get_logger()

AT_ONCE = 3
"""Months closed beside each other: most of the work is PostgreSQL's, in a process for each."""
SETTLED = timedelta(hours=1)
_OPEN = """
SELECT account.organization_id, %(last)s::date
FROM public.billing_account account
JOIN public.tenants_organization organization ON organization.id = account.organization_id
WHERE organization.created_at < %(began)s AND NOT EXISTS (
    SELECT FROM public.billing_period period
    WHERE period.organization_id = account.organization_id AND period.month = %(last)s
)
UNION
SELECT account.organization_id, period.month
FROM public.billing_period period
JOIN public.billing_account account ON account.organization_id = period.organization_id
WHERE period.closed_at IS NULL AND period.month <= %(last)s
ORDER BY 2, 1
"""


@dataclass(frozen=True, slots=True)
class Due:
    """A month of an organization's that has ended and is open."""

    organization: int
    month: date


@dataclass(frozen=True, slots=True)
class Closed:
    """How it went: the invoice, or why there is none; neither where somebody else was faster."""

    due: Due
    invoice: Invoice | None
    error: Exception | None = None


def clock() -> datetime:
    """The database's, which all that close a month share: a host's own may be ahead, and would
    close a month that goes on."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        return cast(datetime, cursor.fetchone()[0])


def due(*, now: datetime) -> list[Due]:
    """All of them, the oldest months first; also those that an earlier run has left.

    A month is left alone for `SETTLED` after its end, for what is being booked.
    """
    this = month_of(now - SETTLED)
    with connection.cursor() as cursor:
        cursor.execute(
            _OPEN, {"last": month_before(this), "began": datetime.combine(this, time(), UTC)}
        )
        return [Due(*row) for row in cursor.fetchall()]


def close_all(
    months: Sequence[Due],
    *,
    now: datetime,
    close: Callable[..., Invoice] = close_month,
    at_once: int = AT_ONCE,
) -> Iterator[Closed]:
    """Close these, `at_once` beside each other, and say how each went, as it is done.

    One that fails keeps none of the others, and is due still.
    """
    one = partial(_one, now=now, close=close)
    if at_once == 1:
        yield from map(one, months)
        return
    with ThreadPoolExecutor(at_once, "closing") as pool:
        waiting = [pool.submit(_apart, one, each) for each in months]
        try:
            for each in as_completed(waiting):
                yield each.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _one(each: Due, *, now: datetime, close: Callable[..., Invoice]) -> Closed:
    try:
        return Closed(each, close(organization=each.organization, month=each.month, now=now))
    except MonthClosed:
        return Closed(each, None)
    except Exception as error:
        log.exception(
            "a month could not be closed", organization=each.organization, month=str(each.month)
        )
        return Closed(each, None, error)


def _apart(one: Callable[[Due], Closed], each: Due) -> Closed:
    """In a thread of its own, whose connection is given back."""
    try:
        return one(each)
    finally:
        close_old_connections()
