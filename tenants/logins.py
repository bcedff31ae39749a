"""People's log-ins: begun with a password, renewed by tokens that are each good once, seen, ended.

Those of browsers are sessions of Django's (`tenants.accounts.sessions`), which end with their row
here. Each log-in, log-out and failure is in the audit log of the platform and of each organization
that the person belongs to.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import cast
from uuid import UUID

from django.conf import settings
from django.contrib.auth import authenticate
from django.db import transaction
from django.db.models import Q

from kit import origin
from kit.errors import Refused
from tenants import audit, failures, tokens
from tenants.accounts import addresses, factors
from tenants.audit import Actor, Change
from tenants.models import Door, LogIn, User
from tenants.records import changing
from tenants.tokens import NotLoggedIn, Pair

_SEEN = timedelta(minutes=1)
"""How far behind it may be when a browser was last seen."""

MOST_OPEN = 100
"""Log-ins of one person."""
_KEPT = timedelta(days=1)
"""How long a log-in that is over stays."""


class AddressNotConfirmed(NotLoggedIn):
    """Registered, but nobody has shown that the address is theirs."""

    code = "address_not_confirmed"


class WrongPassword(NotLoggedIn):
    """Which of the two is wrong is not said."""

    code = "wrong_credentials"


class NoSuchLogIn(Refused):
    """None of the person's that is open."""

    status, code = 404, "log_in_not_found"


def begin(*, email: str, password: str, code: str = "", now: datetime) -> Pair:
    """Tokens of a new log-in; `code` is of the second factor, for those who have one.

    Raises `WrongPassword`, `AddressNotConfirmed`, `factors.SecondFactorNeeded`,
    `factors.WrongSecondFactor`.
    """
    user = authenticate(username=email, password=password)
    if not isinstance(user, User):
        failures.wrong_password(email, door=Door.API, now=now)
        raise WrongPassword("No active account has this e-mail address and password.")
    if addresses.is_unconfirmed(user):
        raise AddressNotConfirmed("Confirm your e-mail address first, by the link in our letter.")
    try:
        two = factors.check(user, code)
    except factors.WrongSecondFactor:
        failures.wrong_factor(user, door=Door.API, now=now)
        raise
    login = _of(user, Door.API, now)
    pair = tokens.pair(user=user.pk, login=login.pk)
    login.token, login.two_factors = pair.token, two
    with transaction.atomic():
        login.save(force_insert=True)
        _end_beyond(user, now)
        User.objects.filter(pk=user.pk).update(last_login=now)
        record(user, door=Door.API, now=now)
    return pair


def begin_session(user: User, *, door: Door, now: datetime) -> UUID:
    """A browser's log-in; the id that its session carries."""
    row = _of(user, door, now)
    LogIn.objects.bulk_create([row])  # New: no process can remember it yet.
    _end_beyond(user, now)
    return row.pk


def record(user: User, *, door: Door, now: datetime) -> None:
    """That the person came in; an operator's is in the platform's log as such."""
    action, after = "user.logged_in", {"door": door.value}
    if not user.is_staff:
        audit.record_of(
            user.pk, Change(action, _target(user), {}, after), by=audit.person(user), now=now
        )
        return
    entry = Change("operator.logged_in", _target(user), {}, after)
    audit.record(entry, by=audit.operator(user), organization=None, now=now)
    for organization in audit.organizations_of(user.pk):
        entry = Change(action, _target(user), {}, after)
        audit.record(entry, by=audit.person(user), organization=organization, now=now)


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
    if login is not None and _end(login, now):
        entry = Change("login.token_reused", f"user:{claims.user}", after={"login": claims.login})
        audit.record_of(claims.user, entry, by=audit.NOBODY, now=now)
    raise NotLoggedIn("This refresh token was used before, or its log-in has ended; log in again.")


def end(refresh: str, *, now: datetime) -> None:
    """Log out: all of the log-in's tokens are good no more, within a second."""
    claims = tokens.read_refresh(refresh)
    end_session(claims.login, now=now, user=claims.user)


def end_session(identifier: str, *, user: int, now: datetime) -> None:
    """Log out. Again changes nothing."""
    login = LogIn.objects.filter(pk=identifier, user=user, ended_at=None).select_related("user")
    found = login.first()
    if found is not None:
        with transaction.atomic():
            if _end(found, now):
                change = Change("user.logged_out", f"user:{user}", {"door": found.door}, {})
                audit.record_of(user, change, by=audit.person(found.user), now=now)


def see(identifier: str, *, now: datetime) -> bool:
    """A browser came; whether its log-in is open."""
    login = LogIn.objects.filter(pk=identifier, ended_at=None).first()
    if login is None:
        return False
    if login.refreshed_at <= now - _SEEN:
        where = {"address": str(origin.current().address or ""), "agent": origin.current().agent}
        LogIn.objects.filter(pk=login.pk).update(refreshed_at=now, **where)
    return True


def open_of(user: User, *, now: datetime) -> Sequence[LogIn]:
    """Those that can still be used, the last seen first."""
    lifetime, session = _lifetimes()
    living = Q(door=Door.API, refreshed_at__gt=now - lifetime) | (
        ~Q(door=Door.API) & Q(created_at__gt=now - session)
    )
    return list(LogIn.objects.filter(living, user=user, ended_at=None).order_by("-refreshed_at"))


def end_one(user: User, identifier: str, *, now: datetime, by: Actor) -> None:
    """Out there within a second; raises `NoSuchLogIn`."""
    found = [each for each in open_of(user, now=now) if str(each.pk) == identifier]
    if not found:
        raise NoSuchLogIn(f"You have no open log-in {identifier[:40]!r}.")
    _end_each(user, found, now, by)


def end_others(user: User, *, but: str, now: datetime, by: Actor) -> int:
    """Out everywhere but here within a second; how many there were."""
    others = [each for each in open_of(user, now=now) if str(each.pk) != but]
    _end_each(user, others, now, by)
    return len(others)


def end_all(user: User, *, now: datetime, but: str = "") -> None:
    """Log a person out everywhere, or everywhere else: what led to it is what is recorded."""
    for login in LogIn.objects.filter(user=user, ended_at=None):
        if str(login.pk) != but:
            _end(login, now)


def end_two_factored(user: User, *, now: datetime) -> None:
    """A person has no second factor any more: what was begun with one at the API is over."""
    for login in LogIn.objects.filter(user=user, ended_at=None, two_factors=True):
        _end(login, now)


def purge(*, now: datetime) -> int:
    """Forget log-ins that nobody can use any more, the audit log keeps them; how many there were.

    Those that were ended a day ago, and those whose last token or cookie has expired.
    """
    lifetime, session = _lifetimes()
    over = Q(ended_at__lte=now - _KEPT) | Q(door=Door.API, refreshed_at__lte=now - lifetime - _KEPT)
    over |= ~Q(door=Door.API) & Q(refreshed_at__lte=now - session - _KEPT)
    purged = 0
    while batch := list(LogIn.objects.filter(over).values_list("pk", flat=True)[:1000]):
        LogIn.objects.filter(pk__in=batch).delete()
        purged += len(batch)
    return purged


def _lifetimes() -> tuple[timedelta, timedelta]:
    """Of a refresh token, and of a browser's session."""
    refresh = cast(timedelta, settings.SIMPLE_JWT["REFRESH_TOKEN_LIFETIME"])
    return refresh, timedelta(seconds=settings.SESSION_COOKIE_AGE)


def _of(user: User, door: Door, now: datetime) -> LogIn:
    where = origin.current()
    address = str(where.address or "")
    return LogIn(
        user=user, door=door, address=address, agent=where.agent, created_at=now, refreshed_at=now
    )


def _end_each(user: User, logins: Sequence[LogIn], now: datetime, by: Actor) -> None:
    with transaction.atomic():
        for login in logins:
            if _end(login, now):
                was = {"login": str(login.pk), "door": login.door, "address": login.address}
                change = Change("user.log_in_ended", _target(user), was, {"ended_at": now})
                audit.record_of(user.pk, change, by=by, now=now)


def _end_beyond(user: User, now: datetime) -> None:
    """Those that were not seen for the longest give way."""
    _end_each(user, open_of(user, now=now)[MOST_OPEN:], now, audit.SYSTEM)


def _target(user: User) -> str:
    return f"user:{user.pk}"


def _is_active(user: int) -> bool:
    return User.objects.filter(pk=user, is_active=True).exists()


def _end(login: LogIn, now: datetime) -> bool:
    with changing(LogIn.kind, login.pk):
        return bool(LogIn.objects.filter(pk=login.pk, ended_at=None).update(ended_at=now))
