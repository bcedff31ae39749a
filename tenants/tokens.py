"""People's tokens: signed, short-lived access tokens and the refresh tokens that renew them.

The one module that speaks to djangorestframework-simplejwt (RFC 7519, HS256).
"""

from dataclasses import dataclass
from uuid import UUID, uuid4

from rest_framework_simplejwt.exceptions import TokenError
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken, Token

from kit.errors import Refused

_LOGIN = "sid"


class NotLoggedIn(Refused):
    """No token, or one that is forged, expired, used before, or of a log-in that has ended."""

    status, code = 401, "invalid_token"


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """Whose token it is, and of which log-in; signed by us, not yet held against the log-in."""

    user: int
    login: str


@dataclass(frozen=True, slots=True)
class RefreshClaims:
    """Of which log-in, and which of its refresh tokens."""

    user: int
    login: str
    token: str


@dataclass(frozen=True, slots=True)
class Pair:
    """An access token, good for `seconds`, and the refresh token that gets the next; its id."""

    access: str
    refresh: str
    seconds: int
    token: str


def pair(*, user: int, login: UUID) -> Pair:
    """Two new tokens."""
    token = uuid4().hex
    access, refresh = AccessToken(), RefreshToken()
    for each in (access, refresh):
        each["sub"], each[_LOGIN] = str(user), str(login)
    refresh["jti"] = token
    lifetime = access.lifetime
    return Pair(str(access), str(refresh), int(lifetime.total_seconds() if lifetime else 0), token)


def read_access(text: str) -> AccessClaims:
    """What an access token says; raises `NotLoggedIn`."""
    claims = _read(AccessToken, text)
    return AccessClaims(claims.user, claims.login)


def read_refresh(text: str) -> RefreshClaims:
    """What a refresh token says; raises `NotLoggedIn`."""
    return _read(RefreshToken, text)


def _read(kind: type[Token], text: str) -> RefreshClaims:
    try:
        token = kind(text)  # type: ignore[arg-type]
        login = str(UUID(token[_LOGIN]))
        return RefreshClaims(int(token["sub"]), login, str(token["jti"]))
    except (TokenError, KeyError, ValueError) as error:
        raise NotLoggedIn("This token is not valid, or no longer; log in again.") from error
