"""Log-ins of browsers: each session of Django's carries the id of its row among the log-ins.

A session's own key changes on the way (at a new password), so it is the row that says whether the
session is open: one that was ended elsewhere is emptied when it comes next.
"""

from datetime import datetime
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.base import SessionBase
from django.http import HttpRequest

from tenants import logins
from tenants.models import Door, User

_LOGIN = "log_in"


def begin(request: HttpRequest, user: User, *, now: datetime) -> None:
    """Whoever has just come in by this session."""
    door = Door.ADMIN if request.path.startswith("/admin/") else Door.PORTAL
    request.session[_LOGIN] = str(logins.begin_session(user, door=door, now=now))


def see(request: HttpRequest, *, now: datetime) -> None:
    """The session is used; one whose log-in has ended is nobody's any more."""
    if SESSION_KEY not in request.session:
        return
    if not current(request) and request.user.is_authenticated:
        begin(request, request.user, now=now)  # Its session is older than the rows are.
    elif not logins.see(current(request), now=now):
        request.session.flush()


def end(request: HttpRequest, user: User, *, now: datetime) -> None:
    """Whoever logs out of it."""
    if current(request):
        logins.end_session(current(request), user=user.pk, now=now)


def purge() -> None:
    """Forget the sessions that have expired."""
    store: type[SessionBase] = import_module(settings.SESSION_ENGINE).SessionStore
    store.clear_expired()


def current(request: Any) -> str:
    """The id of the session's log-in; empty where nobody is logged in."""
    session = getattr(request, "session", None)
    return str(session.get(_LOGIN, "")) if session is not None else ""
