"""Registering, logging in and out, passwords: allauth's, with our throttle, addresses and audit."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import structlog
from allauth.account.adapter import DefaultAccountAdapter, get_adapter
from allauth.core import context
from django.conf import settings
from django.core.exceptions import ValidationError
from django.http import HttpRequest

from kit import origin
from kit.errors import Unavailable
from tenants import audit, failures, logins, throttle
from tenants.accounts import services, sessions
from tenants.audit import Change
from tenants.models import Door, User

_INVITED = "invited"

log = structlog.get_logger()


def invited(request: HttpRequest, email: str) -> None:
    """Whoever is here has the letter that went to `email`: they may register with that address,
    and need not confirm it again."""
    request.session[_INVITED] = email
    get_adapter(request).stash_verified_email(request, email)


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    """What allauth asks us."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Everyone, or those who are invited."""
        return settings.REGISTRATION_OPEN or _INVITED in request.session

    def pre_authenticate(self, request: HttpRequest, **credentials: Any) -> None:
        """Count a try, as the API's log-in does."""
        try:
            throttle.attempt_now(_account(credentials))
        except throttle.TooManyAttempts as refusal:
            raise ValidationError(refusal.message, code="throttled") from None

    def authenticate(self, request: HttpRequest, **credentials: Any) -> User | None:
        """The person whose password this is."""
        user: User | None = super().authenticate(request, **credentials)
        if user is not None:
            throttle.succeeded_now(_account(credentials))
        return user

    def authentication_failed(self, request: HttpRequest, **credentials: Any) -> None:
        """Nobody; the throttle has counted it."""
        failures.wrong_password(_account(credentials), door=Door.PORTAL, now=datetime.now(UTC))

    def _rollback_login_failed_rl_usage(self) -> None:
        """Allauth's own count is not used."""

    def login(self, request: HttpRequest, user: User) -> None:
        """Begin a session."""
        super().login(request, user)
        logins.record(user, door=Door.PORTAL, now=datetime.now(UTC))

    def set_password(self, user: User, password: str) -> None:
        """A new password ends the person's log-ins everywhere else."""
        now = datetime.now(UTC)
        had = user.has_usable_password()
        super().set_password(user, password)
        logins.end_all(user, now=now, but=sessions.current(context.request))
        change = Change("user.password_changed", f"user:{user.pk}", {"set": had}, {"set": True})
        audit.record_of(user.pk, change, by=audit.person(user), now=now)

    def is_reauthentication_required(self, *, app: str) -> bool:
        """For another way in as for a second factor."""
        return app == services.APP or bool(super().is_reauthentication_required(app=app))

    def get_client_ip(self, request: HttpRequest) -> str:
        """As everywhere: through our own proxies, and theirs alone."""
        return str(origin.current().address)

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """Raises `Unavailable` where the mail server does not take it."""
        try:
            super().send_mail(template_prefix, email, context)
        except OSError as error:
            log.error("a letter could not be sent", letter=template_prefix, error=str(error))
            raise Unavailable(
                "Our mail server does not answer, so no letter went out; try again in a minute."
            ) from error

    def send_notification_mail(self, *args: Any, **kwargs: Any) -> None:
        """What it tells of has happened, whether the letter goes out or not."""
        with suppress(Unavailable):
            super().send_notification_mail(*args, **kwargs)

    def format_email_subject(self, subject: str) -> str:
        """Without a prefix."""
        return subject


def _account(credentials: dict[str, Any]) -> str:
    return str(credentials.get("email") or credentials.get("username") or "")
