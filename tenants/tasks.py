"""Scheduled work: anchors of the audit log, and when keys were last used."""

from celery import shared_task
from django.utils import timezone

from tenants import anchors, uses


@shared_task(name="tenants.anchor_audit")
def anchor_audit() -> int:
    """Write the heads of the audit chains down outside the database; how many moved."""
    return anchors.anchor(now=timezone.now())


@shared_task(name="tenants.write_uses")
def write_uses() -> int:
    """Bring from Redis to the keys' rows when they were last used; how many were."""
    return uses.write()
