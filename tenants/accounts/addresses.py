"""Which e-mail addresses people have shown to be theirs; allauth's table keeps them."""

from allauth.account.models import EmailAddress

from tenants.models import User


def are_confirmed(user: User, *emails: str) -> bool:
    """Whether the person has confirmed them all."""
    rows = EmailAddress.objects.filter(user=user, verified=True, email__in=emails)
    return set(rows.values_list("email", flat=True)) == set(emails)


def is_unconfirmed(user: User) -> bool:
    """Whether they registered and have confirmed no address yet; not so for people whom an operator
    made."""
    rows = EmailAddress.objects.filter(user=user)
    return rows.exists() and not rows.filter(verified=True).exists()


def confirm(user: User) -> None:
    """The person's address is taken to be theirs, as an operator's command may say."""
    EmailAddress.objects.update_or_create(
        user=user, email=user.email, defaults={"verified": True, "primary": True}
    )
