"""People's log-ins: begun with a password, renewed by tokens that are each good once, ended."""

from datetime import datetime

from django.contrib.auth import authenticate
from django.db import transaction

from kit import origin
from tenants import audit, tokens
from tenants.accounts import addresses, factors
from tenants.audit import Change
from tenants.models import LogIn, User
from tenants.records import changing
from tenants.tokens import NotLoggedIn, Pair


class AddressNotConfirmed(NotLoggedIn):
    """Registered, but nobody has shown that the address is theirs."""

    code = "address_not_confirmed"


class WrongPassword(NotLoggedIn):
    """Which of the two is wrong is not said."""

    code = "wrong_credentials"


def begin(*, email: str, password: str, code: str = "", now: datetime) -> Pair:
    """Tokens of a new log-in; `code` is of the second factor, for those who have one.

    Raises `WrongPassword`, `AddressNotConfirmed`, `factors.SecondFactorNeeded`,
    `factors.WrongSecondFactor`. An operator's is recorded.
    """
    user = authenticate(username=email, password=password)
    if not isinstance(user, User):
        raise WrongPassword("No active account has this e-mail address and password.")
    if addresses.is_unconfirmed(user):
        raise AddressNotConfirmed("Confirm your e-mail address first, by the link in our letter.")
    factors.check(user, code)
    where = origin.current()
    login = LogIn(user=user, address=str(where.address or ""), agent=where.agent)
    pair = tokens.pair(user=user.pk, login=login.pk)
    login.token, login.created_at, login.refreshed_at = pair.token, now, now
    with transaction.atomic():
        login.save(force_insert=True)
        User.objects.filter(pk=user.pk).update(last_login=now)
        if user.is_staff:
            entry = Change("operator.logged_in", f"user:{user.pk}")
            audit.record(entry, by=audit.operator(user), organization=None, now=now)
    return pair


def renew(refresh: str, *, now: datetime) -> Pair:
    """New tokens for a refresh token, which is good no more.

    Raises `NotLoggedIn`. A token that was used before is in two hands: the log-in ends.
    """
    claims = tokens.read_refresh(refresh)
    rows = LogIn.objects.filter(pk=claims.login, user=claims.user, ended_at=None)
    pair = tokens.pair(user=claims.user, login=LogIn(pk=claims.login).pk)
    # One conditional update without a join: of two who come at once one waits, looks again, fails.
    current = rows.filter(token=claims.token)
    if _is_active(claims.user) and current.update(token=pair.token, refreshed_at=now):
        return pair
    login = rows.first()
    if login is not None:
        _end(login, now)
        entry = Change("login.token_reused", f"user:{claims.user}", after={"login": claims.login})
        audit.record(entry, by=audit.NOBODY, organization=None, now=now)
    raise NotLoggedIn("This refresh token was used before, or its log-in has ended; log in again.")


def end(refresh: str, *, now: datetime) -> None:
    """Log out: all of the log-in's tokens are good no more, within a second."""
    claims = tokens.read_refresh(refresh)
    login = LogIn.objects.filter(pk=claims.login, user=claims.user, ended_at=None).first()
    if login is not None:
        _end(login, now)


def end_all(user: User, *, now: datetime) -> None:
    """Log a person out everywhere."""
    for login in LogIn.objects.filter(user=user, ended_at=None):
        _end(login, now)


def _is_active(user: int) -> bool:
    return User.objects.filter(pk=user, is_active=True).exists()


def _end(login: LogIn, now: datetime) -> None:
    with changing(LogIn.kind, login.pk):
        LogIn.objects.filter(pk=login.pk, ended_at=None).update(ended_at=now)
