"""Work beside requests: anchors of the audit log, when keys were last used, letters."""

from typing import Any

import structlog
from celery import shared_task
from django.utils import timezone

from tenants import (
    anchors,
    audit,
    erasure,
    failures,
    invitations,
    keyring,
    logins,
    organizations,
    schemas,
    uses,
)
from tenants.accounts import addresses, sessions
from tenants.webhooks import sending

log = structlog.get_logger()


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


@shared_task(name="tenants.send_certificate", autoretry_for=(OSError,), retry_backoff=30)
def send_certificate(organization: int = 0, **_: Any) -> int:
    """Send an erased organization's former owners its certificate; how many letters."""
    return erasure.tell(organization) if organization else 0


@shared_task(name="tenants.record_failure")
def record_failure(
    email: str = "", door: str = "", at: str = "", address: str = "", agent: str = "", **_: object
) -> int:
    """Write a failed log-in into the logs of the account's organizations; how many."""
    if not (email and at):
        return 0
    return failures.tell(email=email, door=door, at=at, address=address, agent=agent)


@shared_task(name="tenants.purge_log_ins", ignore_result=True)
def purge_log_ins(**_: object) -> int:
    """Forget log-ins that are over, and browsers' sessions; how many log-ins there were."""
    sessions.purge()
    return logins.purge(now=timezone.now())


@shared_task(name="tenants.purge_registrations", ignore_result=True)
def purge_registrations(**_: object) -> int:
    """Forget people who never confirmed an address, and invitations that are over; how many."""
    now = timezone.now()
    return addresses.purge(now=now) + invitations.purge(now=now)


@shared_task(name="tenants.send_webhooks", ignore_result=True)
def send_webhooks(**_: object) -> int:
    """Tell what is due; how many were delivered."""
    return sending.send_due(now=timezone.now())


@shared_task(name="tenants.purge_webhooks", ignore_result=True)
def purge_webhooks(**_: object) -> int:
    """Forget what was told long ago."""
    return sending.purge(now=timezone.now())


@shared_task(name="tenants.make_schema")
def make_schema(organization: int, **_: object) -> bool:
    """Make a new organization's schema; whether this task did."""
    return schemas.make(organization, now=timezone.now())


@shared_task(name="tenants.make_schemas", ignore_result=True)
def make_schemas() -> int:
    """Go on with the schemas that nobody works on, as after a crash; how many were made."""
    made = 0
    for organization in schemas.unfinished(now=timezone.now()):
        try:
            made += schemas.make(organization, now=timezone.now())
        except Exception:
            log.exception("a schema could not be made", organization=organization)
    return made


@shared_task(name="tenants.erase_organizations")
def erase_organizations() -> int:
    """Erase those whose grace period is over, each whatever becomes of the others; how many."""
    erased = 0
    for organization in organizations.due(now=timezone.now()):
        try:
            erasure.erase(organization, now=timezone.now(), by=audit.SYSTEM)
        except Exception:
            log.exception("an organization could not be erased", organization=organization.slug)
        else:
            erased += 1
    return erased
