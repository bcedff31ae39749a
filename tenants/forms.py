"""How operators get in."""

from datetime import UTC, datetime
from typing import Any

from django.forms import ValidationError
from unfold.forms import AuthenticationForm

from tenants import failures, logins, throttle
from tenants.accounts import factors
from tenants.models import Door


class OperatorLoginForm(AuthenticationForm):  # type: ignore[misc]
    """Every log-in to the admin is throttled and recorded, the ones that fail too."""

    def clean(self) -> dict[str, Any]:
        """Judge the password, unless it was tried too often."""
        tried = self.cleaned_data.get("username") or ""
        try:
            throttle.attempt_now(tried)
        except throttle.TooManyAttempts as refusal:
            raise ValidationError(refusal.message, code="throttled") from None
        cleaned: dict[str, Any] = super().clean()
        throttle.succeeded_now(tried)
        return cleaned

    def confirm_login_allowed(self, user: Any) -> None:
        """The password is right: let operators in."""
        super().confirm_login_allowed(user)
        if factors.are_set(user):
            raise ValidationError(
                "You have a second factor: log in at the portal, then come back.", code="factor"
            )
        logins.record(user, door=Door.ADMIN, now=datetime.now(UTC))

    def get_invalid_login_error(self) -> ValidationError:
        """It is not, or they are not an operator."""
        tried = self.cleaned_data.get("username") or ""
        failures.wrong_password(tried, door=Door.ADMIN, now=datetime.now(UTC))
        return super().get_invalid_login_error()  # type: ignore[no-any-return]
