"""Log-ins that failed, in the audit log.

The platform's entry is written at once. Those of the organizations of whoever has the address are
left to a task: how long a refusal takes must not tell whether the address is known.
"""

from datetime import UTC, datetime
from ipaddress import ip_address

import structlog
from celery import current_app
from django.db import transaction

from kit import origin
from kit.origin import Origin
from tenants import audit
from tenants.audit import Actor, Change
from tenants.models import AuditEntry, Door, User

log = structlog.get_logger()

_LONGEST = 254


def wrong_password(email: str, *, door: Door, now: datetime) -> None:
    """Somebody tried an address with a password that is not its account's, if it has one."""
    tried = User.objects.normalize_email(email)[:_LONGEST]
    action = "operator.login_failed" if door is Door.ADMIN else "user.login_failed"
    change = Change(action, door.value, {}, {"email": tried, "door": door.value})
    audit.record(change, by=Actor("nobody", tried), organization=None, now=now)
    where = origin.current()
    arguments = {
        "email": tried,
        "door": door.value,
        "at": now.isoformat(),
        "address": str(where.address or ""),
        "agent": where.agent,
    }

    def send() -> None:
        try:
            current_app.send_task("tenants.record_failure", kwargs=arguments, retry=False)
        except Exception as error:
            log.warning("a failed log-in is in the platform's log alone", error=str(error))

    transaction.on_commit(send)


def tell(*, email: str, door: str, at: str, address: str, agent: str) -> int:
    """The task: the same entry in each organization of the account, once; in how many."""
    user = User.objects.filter(email=email).first()
    if user is None:
        return 0
    now = datetime.fromisoformat(at).astimezone(UTC)
    change = Change("user.login_failed", f"user:{user.pk}", {}, {"email": email, "door": door})
    where = Origin(ip_address(address) if address else None, agent)
    told = 0
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=user.pk)
        for organization in audit.organizations_of(user.pk):
            same = AuditEntry.objects.for_org(organization).filter(at=now, action=change.action)
            if not same.filter(target=change.target, address=address).exists():
                by = Actor("nobody", email)
                audit.record(change, by=by, organization=organization, now=now, where=where)
                told += 1
    return told


def wrong_factor(user: User, *, door: Door, now: datetime) -> None:
    """The password was right and the second factor not: somebody has the password."""
    change = Change("user.second_factor_failed", f"user:{user.pk}", {}, {"door": door.value})
    audit.record_of(user.pk, change, by=Actor("nobody", user.email), now=now)
