"""When nothing more is begun for an organization: while it is suspended, and once it leaves."""

from datetime import datetime

from tenants.auth import Suspended
from tenants.models import Organization


def is_leaving(organization: int) -> bool:
    """Its owner has asked to delete it."""
    rows = Organization.objects.filter(pk=organization)
    return rows.exclude(erase_at=None, erased_at=None).exists()


def suspended_at(organization: int) -> datetime | None:
    """Since when it is; None where it is not."""
    rows = Organization.objects.filter(pk=organization)
    return rows.values_list("suspended_at", flat=True).first()


def require_reinstated(organization: int) -> None:
    """Before what is charged at once; raises `Suspended`."""
    if suspended_at(organization) is not None:
        raise Suspended(
            "The organization is suspended: no plan begins and none grows until it is reinstated."
        )
