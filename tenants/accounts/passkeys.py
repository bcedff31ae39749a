"""How many passkeys a person has."""

from typing import Any

from allauth.mfa.models import Authenticator
from allauth.mfa.webauthn.forms import AddWebAuthnForm
from django.core.exceptions import ValidationError

MOST = 20
"""Of one person: each is offered to their browser at every log-in."""


class NewPasskey(AddWebAuthnForm):  # type: ignore[misc]
    """Allauth's form, for who has room."""

    def clean(self) -> dict[str, Any]:
        """Refuse one too many, by name."""
        mine = Authenticator.objects.filter(user=self.user, type=Authenticator.Type.WEBAUTHN)
        if mine.count() >= MOST:
            raise ValidationError(
                f"You have {MOST} passkeys, the most there may be; remove one first.",
                code="too_many_passkeys",
            )
        cleaned: dict[str, Any] = super().clean()
        return cleaned
