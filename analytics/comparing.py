"""Books compared, and what was found kept for operators to see."""

from datetime import date, datetime

import structlog

from analytics.models import Comparison
from analytics.reconciliation import Kind, Report, reconcile
from billing import credit
from tenants.models import Organization

log = structlog.get_logger()

MOST_KEPT = 100
"""Differences of a month that are kept; all are counted, and logged."""


def compare(organization: Organization, month: date, *, now: datetime) -> Report:
    """Reconcile a month and write down what was found; raises what `reconcile` does.

    Counters that are wrong are rebuilt from the ledger; nothing else mends itself.
    """
    try:
        report = reconcile(organization, month)
    except Exception as error:
        _keep(organization, month, at=now, rows=0, count=0, error=repr(error))
        raise
    found = [(each.kind.value, each.subject, each.found) for each in report.differences]
    _keep(
        organization,
        month,
        at=now,
        rows=report.requests,
        count=len(found),
        differences=found[:MOST_KEPT],
        error=report.unread,
    )
    for kind, subject, what in found:
        log.error(
            "books disagree", organization=organization.slug, kind=kind, subject=subject, found=what
        )
    if any(each.kind is Kind.CREDIT for each in report.differences):
        credit.renew(organization.pk)
    return report


def _keep(
    organization: Organization,
    month: date,
    *,
    at: datetime,
    rows: int,
    count: int,
    differences: list[tuple[str, str, str]] | None = None,
    error: str = "",
) -> None:
    said = {
        "at": at,
        "rows": rows,
        "count": count,
        "differences": differences or [],
        "error": error[:300],
    }
    Comparison.objects.for_org(organization).update_or_create(
        organization=organization, month=month, defaults=said
    )
