"""Operators who look at the portal as a person sees it.

Their own log-in stays what it is, in the admin and on the pages of accounts; only the pages of
organizations show what the person would see, for an hour, and change nothing.
"""

from datetime import datetime, timedelta
from typing import Any

from django.http import HttpRequest

from tenants import audit
from tenants.audit import Change
from tenants.models import User

PERMISSION = "tenants.log_in_as_user"
_AS = "acting_as"
_LASTS = timedelta(hours=1)


def begin(request: HttpRequest, user: User, *, now: datetime) -> None:
    """From now on, until it is stopped or its hour is over."""
    stop(request, now=now)
    until = now + _LASTS
    request.session[_AS] = {"user": user.pk, "email": user.email, "until": until.timestamp()}
    _record(request, "operator.logged_in_as", user, {}, {"user": user.email, "until": until}, now)


def whom(request: HttpRequest, *, now: datetime) -> User | None:
    """As whom the operator of this session looks; None where they are themselves.

    Where its hour is over, or the right was taken, that is recorded when it is noticed here; that
    nothing was seen after the hour is in the entry of its beginning already.
    """
    said: dict[str, Any] | None = request.session.get(_AS)
    if said is None:
        return None
    if said["until"] <= now.timestamp() or not request.user.has_perm(PERMISSION):
        stop(request, now=now)
        return None
    return User.objects.filter(pk=said["user"], is_active=True, is_staff=False).first()


def stop(request: HttpRequest, *, now: datetime) -> None:
    """Themselves again. Again changes nothing."""
    said = request.session.pop(_AS, None)
    user = User.objects.filter(pk=said["user"]).first() if said else None
    if said is None or user is None:
        return
    after = {}
    if said["until"] <= now.timestamp():
        after = {"because": "its hour was over"}
    elif not request.user.has_perm(PERMISSION):
        after = {"because": "the right was taken"}
    _record(request, "operator.stopped_acting", user, {"user": user.email}, after, now)


def _record(
    request: HttpRequest,
    action: str,
    user: User,
    before: dict[str, Any],
    after: dict[str, Any],
    now: datetime,
) -> None:
    change = Change(action, f"user:{user.pk}", before, after)
    audit.record_of(user.pk, change, by=audit.operator(request.user), now=now)
