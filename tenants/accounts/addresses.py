"""Which e-mail addresses people have shown to be theirs; allauth's table keeps them."""

from datetime import datetime, timedelta

from allauth.account.models import EmailAddress
from django.db import transaction
from django.db.models import Exists, OuterRef

from tenants import audit
from tenants.audit import Change
from tenants.models import User

UNCONFIRMED_KEPT = timedelta(days=30)
"""How long somebody may take to confirm the address that they registered with."""
_AT_ONCE = 10_000
"""In a night."""


def are_confirmed(user: User, *emails: str) -> bool:
    """Whether the person has confirmed them all."""
    rows = EmailAddress.objects.filter(user=user, verified=True, email__in=emails)
    return set(rows.values_list("email", flat=True)) == set(emails)


def is_unconfirmed(user: User) -> bool:
    """Whether they registered and have confirmed no address yet; not so for people whom an operator
    made."""
    rows = EmailAddress.objects.filter(user=user)
    return rows.exists() and not rows.filter(verified=True).exists()


def purge(*, now: datetime) -> int:
    """Forget who registered long ago, has confirmed no address since, and so never came in; how
    many they were."""
    known = EmailAddress.objects.filter(user=OuterRef("pk"))
    rows = User.objects.filter(
        Exists(known),
        ~Exists(known.filter(verified=True)),
        date_joined__lte=now - UNCONFIRMED_KEPT,
        is_staff=False,
        last_login=None,
        memberships=None,
    )
    purged = 0
    for user in list(rows[:_AT_ONCE]):
        with transaction.atomic():
            change = Change("user.forgotten", f"user:{user.pk}", {"email": user.email}, {})
            audit.record(change, by=audit.SYSTEM, organization=None, now=now)
            user.delete()
        purged += 1
    return purged


def confirm(user: User) -> None:
    """The person's address is taken to be theirs, as an operator's command may say."""
    EmailAddress.objects.update_or_create(
        user=user, email=user.email, defaults={"verified": True, "primary": True}
    )
