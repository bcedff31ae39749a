"""The ledger's monthly partitions, by range of its key: a UUIDv7 carries its time in front."""

import logging
from datetime import UTC, date, datetime, time

from django.db import connection, transaction

from billing.months import month_after, month_of
from kit.ids import first_id

MONTHS_AHEAD = 3
_ONE_AT_A_TIME = 0x6C65_6467_6572
"""An advisory lock's number: "ledger" in ASCII."""

log = logging.getLogger(__name__)


def make(now: datetime) -> list[str]:
    """Make the partitions of this month and the next three that are missing; their names.

    A month whose rows have begun to arrive in the default partition stays there, and is logged.
    """
    month, made = month_of(now), []
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_ONE_AT_A_TIME])
        for _ in range(MONTHS_AHEAD + 1):
            name = f"billing_ledgerentry_{month:%Y_%m}"
            if not _exists(name) and _is_free(month):
                _create(name, month)
                made.append(name)
            month = month_after(month)
    return made


def _exists(name: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [f"public.{name}"])
        return bool(cursor.fetchone()[0])


def _is_free(month: date) -> bool:
    rows = "SELECT 1 FROM public.billing_ledgerentry_default WHERE request >= %s AND request < %s"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT EXISTS ({rows})", _borders(month))
        taken = bool(cursor.fetchone()[0])
    if taken:
        log.error("the ledger's rows of %s are in the default partition and stay there", month)
    return not taken


def _create(name: str, month: date) -> None:
    first, after = _borders(month)
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TABLE public.{name} PARTITION OF public.billing_ledgerentry "
            f"FOR VALUES FROM ('{first}') TO ('{after}')"
        )
        cursor.execute(
            f"CREATE TRIGGER insert_only_whole BEFORE TRUNCATE ON public.{name} "
            "FOR EACH STATEMENT EXECUTE FUNCTION public.billing_refuse_change()"
        )


def _borders(month: date) -> list[str]:
    starts = (datetime.combine(each, time(), UTC) for each in (month, month_after(month)))
    return [str(first_id(start)) for start in starts]
