"""What Redis has yet to learn of a commit, after whoever made it has died or Redis was away."""

from datetime import datetime, timedelta

import structlog

from billing import credit
from billing.allowances import Renewal

log = structlog.get_logger()

_AT_ONCE = timedelta(seconds=10)
"""How long whoever noted a change has to renew by itself."""


def make_good(*, now: datetime) -> int:
    """Renew for whom that was noted and has not happened since; how many they were."""
    rows = Renewal.objects.across_organizations().filter(at__lt=now - _AT_ONCE)
    organizations = list(rows.order_by().values_list("organization", flat=True).distinct()[:500])
    return sum(_renewed(each) for each in organizations)


def _renewed(organization: int) -> bool:
    """One that fails keeps nobody else waiting."""
    try:
        credit.renew(organization)
    except credit.NoAccount:
        Renewal.objects.for_org(organization).delete()
    except Exception:
        log.exception("counters could not be renewed", organization=organization)
        return False
    return True
