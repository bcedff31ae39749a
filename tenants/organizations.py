"""Shutting an organization out, and letting it back in."""

from datetime import datetime

from tenants.models import Organization


def suspend(organization: Organization, *, now: datetime, reason: str = "") -> None:
    """Refuse its callers within a second, telling them the reason. Again changes nothing."""
    if organization.suspended_at is not None:
        return
    organization.suspended_at, organization.suspended_reason = now, reason
    organization.save(update_fields=["suspended_at", "suspended_reason"])


def reinstate(organization: Organization) -> None:
    """Serve its callers again."""
    organization.suspended_at, organization.suspended_reason = None, ""
    organization.save(update_fields=["suspended_at", "suspended_reason"])
