"""Operators who read what an organization has done leave a mark in its log: one a day."""

from datetime import datetime, time, timedelta

from django.db import transaction

from tenants import audit, organizations
from tenants.audit import Actor, Change
from tenants.models import AuditEntry, AuditHead, Organization

_READ = "operator.read"


def note(organization: Organization, *, what: str, by: Actor, now: datetime) -> bool:
    """Record that `by` reads `what` of the organization, unless today's (UTC) mark is there."""
    midnight = datetime.combine(now.date(), time.min, now.tzinfo)
    rows = AuditEntry.objects.for_org(organization).filter(action=_READ, actor=by.id)
    rows = rows.filter(at__gte=midnight, at__lt=midnight + timedelta(days=1))
    marks = rows.filter(after={"read": what})
    if marks.exists():
        return False
    with transaction.atomic():
        # Whoever adds to the chain has this lock: two pages at once leave one mark.
        AuditHead.objects.select_for_update().filter(chain=organization.pk).first()
        if marks.exists():
            return False
        change = Change(_READ, organizations.target(organization), after={"read": what})
        audit.record(change, by=by, organization=organization.pk, now=now)
    return True
