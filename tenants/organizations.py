"""Shutting an organization out, and letting it back in."""

from datetime import datetime

from django.db import transaction

from tenants import audit
from tenants.audit import Actor, Change
from tenants.models import Organization, Retention

_RETENTION = ("retention", "kept_days")
_SUSPENSION = ("suspended_at", "suspended_reason")


def suspend(
    organization: Organization, *, now: datetime, reason: str = "", by: Actor = audit.SYSTEM
) -> None:
    """Refuse its callers within a second, telling them the reason. Again changes nothing."""
    if organization.suspended_at is not None:
        return
    before = _suspension(organization)
    organization.suspended_at, organization.suspended_reason = now, reason
    _save(organization, Change("organization.suspended", target(organization), before), by, now)


def reinstate(organization: Organization, *, now: datetime, by: Actor = audit.SYSTEM) -> None:
    """Serve its callers again. Again changes nothing."""
    if organization.suspended_at is None:
        return
    before = _suspension(organization)
    organization.suspended_at, organization.suspended_reason = None, ""
    _save(organization, Change("organization.reinstated", target(organization), before), by, now)


def keep(
    organization: Organization, retention: Retention, *, days: int, now: datetime, by: Actor
) -> None:
    """Keep from now on what `retention` says, texts for so many days. Again changes nothing.

    Every process follows within a second; texts that are kept no more go with the next purge.
    """
    with transaction.atomic():
        organization = Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
        before = {name: getattr(organization, name) for name in _RETENTION}
        organization.retention, organization.kept_days = retention, days
        after = {name: getattr(organization, name) for name in _RETENTION}
        before, after = audit.differences(before, after)
        if after:
            organization.save(update_fields=list(_RETENTION))
            change = Change("organization.retention", target(organization), before, after)
            audit.record(change, by=by, organization=organization.pk, now=now)


def target(organization: Organization) -> str:
    """How the audit log names it."""
    return f"organization:{organization.slug}"


def _suspension(organization: Organization) -> dict[str, object]:
    return {name: getattr(organization, name) for name in _SUSPENSION}


def _save(organization: Organization, change: Change, by: Actor, now: datetime) -> None:
    with transaction.atomic():
        organization.save(update_fields=list(_SUSPENSION))
        change = Change(change.action, change.target, change.before, _suspension(organization))
        audit.record(change, by=by, organization=organization.pk, now=now)
