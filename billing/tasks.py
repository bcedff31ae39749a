"""Scheduled work: partitions ahead of time, invoices after it."""

import structlog
from celery import shared_task
from django.utils import timezone

from billing import ledger
from billing.invoicing import MonthClosed, close_month
from billing.models import Account
from billing.months import month_before, month_of

log = structlog.get_logger()


@shared_task(name="billing.make_partitions")
def make_partitions() -> list[str]:
    """Have the ledger's next months ready."""
    return ledger.make_partitions(timezone.now())


@shared_task(name="billing.close_months")
def close_months() -> int:
    """Close the last month that ended for everyone who still has it open; how many that were."""
    now, closed = timezone.now(), 0
    month = month_before(month_of(now))
    accounts = Account.objects.across_organizations().order_by("organization_id")
    for organization in accounts.values_list("organization_id", flat=True):
        try:
            close_month(organization=organization, month=month, now=now)
        except MonthClosed:
            continue
        except Exception:
            log.exception("a month could not be closed", organization=organization, month=month)
            continue
        closed += 1
    return closed
