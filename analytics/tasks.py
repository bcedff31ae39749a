"""Scheduled work: the books compared each night."""

from collections import Counter
from datetime import date, datetime

import structlog
from celery import shared_task
from django.utils import timezone

from analytics import exports, metrics
from analytics.comparing import compare
from analytics.reconciliation import Kind
from analytics.rollups import counting
from billing.months import month_before, month_of
from tenants.models import Organization

log = structlog.get_logger()


@shared_task(name="analytics.reconcile")
def reconcile_nightly() -> dict[str, int]:
    """Compare the last month's and the running month's books; differences by kind.

    Counters that are wrong are rebuilt from the ledger; nothing else mends itself.
    """
    now, found, failed = timezone.now(), Counter[str](), 0
    months = {month_before(month_of(now)), month_of(now)}
    for organization in Organization.objects.filter(account__isnull=False, erased_at=None).order_by(
        "slug"
    ):
        try:
            differences, is_whole = _of(organization, sorted(months), now)
            found += differences
            failed += not is_whole
        except Exception:
            log.exception("books could not be compared", organization=organization.slug)
            failed += 1
    for kind in Kind:
        metrics.DIFFERENCES.labels(kind.value).set(found[kind.value])
    metrics.FAILED.set(failed)
    metrics.FINISHED.set_to_current_time()
    return dict(found)


@shared_task(name="analytics.count_requests", ignore_result=True)
def count_requests(**_: object) -> int:
    """Count the requests that ended lately, of every organization; how many they were."""
    counted = 0
    rows = Organization.objects.filter(erased_at=None).exclude(ready_at=None).order_by("pk")
    for slug, schema in rows.values_list("slug", "schema_name"):
        try:
            counted += counting.count(schema)
        except Exception:
            log.exception("requests could not be counted", organization=slug)
    return counted


@shared_task(name="analytics.write_exports", ignore_result=True)
def write_exports(**_: object) -> int:
    """Write the exports that wait; how many were written."""
    return exports.write_waiting(now=timezone.now())


def _of(organization: Organization, months: list[date], now: datetime) -> tuple[Counter[str], bool]:
    """Differences by kind, and whether all books could be read.

    Counters and provider are not of a month: what is wrong there is found in each, and counts once.
    """
    reports = [compare(organization, month, now=now) for month in months]
    differences = {each for report in reports for each in report.differences}
    kinds = Counter(each.kind.value for each in differences)
    return kinds, not any(report.unread for report in reports)
