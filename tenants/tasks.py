"""Work beside requests: anchors of the audit log, when keys were last used, letters."""

from typing import Any

from celery import shared_task
from django.utils import timezone

from tenants import anchors, keyring, uses


@shared_task(name="tenants.anchor_audit")
def anchor_audit() -> int:
    """Write the heads of the audit chains down outside the database; how many moved."""
    return anchors.anchor(now=timezone.now())


@shared_task(name="tenants.write_uses")
def write_uses() -> int:
    """Bring from Redis to the keys' rows when they were last used; how many were."""
    return uses.write()


@shared_task(name="tenants.tell_of_leak", autoretry_for=(OSError,), retry_backoff=30)
def tell_of_leak(key: str = "", **_: Any) -> int:
    """Write to the owners of a key that was reported as leaked; how many letters were sent."""
    return keyring.tell_of_leak(key)
