"""How operators get in."""

from typing import Any

from django.forms import ValidationError
from unfold.forms import AuthenticationForm

from tenants import audit, throttle
from tenants.accounts import factors
from tenants.audit import Actor, Change
from tenants.models import User


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
        entry = Change("operator.logged_in", f"user:{user.pk}")
        audit.record(entry, by=audit.operator(user), organization=None)

    def get_invalid_login_error(self) -> ValidationError:
        """It is not, or they are not an operator."""
        tried = User.objects.normalize_email(self.cleaned_data.get("username"))
        entry = Change("operator.login_failed", "admin", after={"email": tried[:254]})
        audit.record(entry, by=Actor("nobody", tried[:254]), organization=None)
        return super().get_invalid_login_error()  # type: ignore[no-any-return]
