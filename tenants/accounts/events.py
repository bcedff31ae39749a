"""What allauth and Django tell of people's accounts, into the audit log.

Their signals are the only place that every way in and every page of theirs passes; nothing of our
own is told by signals.
"""

from datetime import UTC, datetime
from typing import Any

from allauth.account import signals as of_accounts
from allauth.account.models import EmailAddress
from allauth.mfa import signals as of_factors
from allauth.mfa.models import Authenticator
from allauth.socialaccount import signals as of_services
from allauth.socialaccount.models import SocialAccount, SocialLogin
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.http import HttpRequest

from tenants import audit, failures, logins
from tenants.accounts import acting, factors, sessions
from tenants.audit import Change
from tenants.models import Door, User


def listen() -> None:
    """From now on; again changes nothing."""
    user_logged_in.connect(_came)
    user_logged_out.connect(_left)
    of_accounts.user_signed_up.connect(_registered)
    of_accounts.email_confirmed.connect(_address_confirmed)
    of_accounts.email_changed.connect(_address_changed)
    of_accounts.email_removed.connect(_address_removed)
    of_services.social_account_added.connect(_service_connected)
    of_services.social_account_removed.connect(_service_disconnected)
    of_factors.authenticator_added.connect(_factor_added)
    of_factors.authenticator_removed.connect(_factor_removed)
    of_factors.authenticator_reset.connect(_codes_renewed)
    of_factors.authentication_failed.connect(_factor_failed)


def _came(request: HttpRequest, user: User, **_: Any) -> None:
    sessions.begin(request, user, now=datetime.now(UTC))


def _left(request: HttpRequest, user: User | None, **_: Any) -> None:
    if user is not None:
        acting.stop(request, now=datetime.now(UTC))
        sessions.end(request, user, now=datetime.now(UTC))


def _registered(user: User, **_: Any) -> None:
    _record("user.registered", user, {}, {"email": user.email})


def _address_confirmed(email_address: EmailAddress, **_: Any) -> None:
    fact = {"email": email_address.email}
    _record(
        "user.address_confirmed",
        email_address.user,
        {**fact, "confirmed": False},
        {**fact, "confirmed": True},
    )


def _address_changed(
    user: User,
    from_email_address: EmailAddress | None,
    to_email_address: EmailAddress,
    **_: Any,
) -> None:
    before = {"email": from_email_address.email if from_email_address else ""}
    _record("user.address_changed", user, before, {"email": to_email_address.email})


def _address_removed(user: User, email_address: EmailAddress, **_: Any) -> None:
    _record("user.address_removed", user, {"email": email_address.email}, {})


def _service_connected(sociallogin: SocialLogin, **_: Any) -> None:
    account = sociallogin.account
    _record("user.log_in_connected", account.user, {}, {"provider": account.provider})


def _service_disconnected(socialaccount: SocialAccount, **_: Any) -> None:
    before = {"provider": socialaccount.provider}
    _record("user.log_in_disconnected", socialaccount.user, before, {})


def _factor_added(user: User, authenticator: Authenticator, **_: Any) -> None:
    _record("user.second_factor_added", user, {}, _facts(authenticator))


def _factor_removed(user: User, authenticator: Authenticator, **_: Any) -> None:
    _record("user.second_factor_removed", user, _facts(authenticator), {})
    if not factors.are_set(user):
        logins.end_two_factored(user, now=datetime.now(UTC))


def _codes_renewed(user: User, authenticator: Authenticator, **_: Any) -> None:
    _record("user.recovery_codes_renewed", user, {}, _facts(authenticator))


def _factor_failed(user: User, **_: Any) -> None:
    failures.wrong_factor(user, door=Door.PORTAL, now=datetime.now(UTC))


def _facts(authenticator: Authenticator) -> dict[str, str]:
    return {"kind": str(Authenticator.Type(authenticator.type).label)}


def _record(action: str, user: User, before: dict[str, Any], after: dict[str, Any]) -> None:
    change = Change(action, f"user:{user.pk}", before, after)
    audit.record_of(user.pk, change, by=audit.person(user))
