"""Django's middleware for people's pages; API paths pass it by without a thread hop."""

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from allauth.account.middleware import AccountMiddleware
from asgiref.sync import markcoroutinefunction, sync_to_async
from django.conf import settings
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.messages.middleware import MessageMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.http import HttpRequest, HttpResponseBase
from django.middleware.csrf import CsrfViewMiddleware
from django.middleware.security import SecurityMiddleware
from whitenoise.middleware import WhiteNoiseMiddleware

from kit.edge import refused
from kit.errors import Refused
from tenants.accounts import sessions

PROBES = frozenset({"/health", "/metrics"})
"""Asked every few seconds by machines, inside our own network, with nothing to hide."""


class PortalOnly:
    """Mixed in before a middleware: it runs for pages alone."""

    def __call__(self, request: HttpRequest) -> Any:
        if request.path.startswith(settings.API_PATHS):
            return self.get_response(request)  # type: ignore[attr-defined]
        return super().__call__(request)  # type: ignore[misc]


class PlainHttp(Refused):
    """A key that came in the clear is anybody's who saw it."""

    status, code = 403, "https_required"


class Security(SecurityMiddleware):
    """Redirect to HTTPS, HSTS, referrer policy.

    Programs are refused instead of redirected: they would send the next key in the clear too.
    """

    def __call__(self, request: HttpRequest) -> Any:
        """The API's without a thread hop."""
        if request.path.startswith(settings.API_PATHS):
            return self._of_the_api(request)
        return super().__call__(request)

    async def _of_the_api(self, request: HttpRequest) -> HttpResponseBase:
        if self.redirect and not request.is_secure() and request.path not in PROBES:
            return refused(request, PlainHttp(_PLAIN))
        response: HttpResponseBase = await self.get_response(request)  # type: ignore[misc]
        if self.sts_seconds and request.is_secure():
            response.headers.setdefault("Strict-Transport-Security", self._lasting())
        return response

    def _lasting(self) -> str:
        parts = [f"max-age={self.sts_seconds}"]
        parts += ["includeSubDomains"] * bool(self.sts_include_subdomains)
        return "; ".join([*parts, *["preload"] * bool(self.sts_preload)])


_PLAIN = (
    "This came over plain HTTP; send it to https://. If it carried a key, make another: this one "
    "was readable on its way. (Operators: where a proxy ends TLS, name it in TRUSTED_PROXIES, and "
    "have it send X-Forwarded-Proto: https.)"
)


class WhiteNoise:
    """Static files. Whitenoise's own middleware is synchronous, and would take every other request
    to a thread and back."""

    sync_capable = False
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Awaitable[HttpResponseBase]]) -> None:
        self.get_response = get_response
        self._files = WhiteNoiseMiddleware(_no_such_file)
        self._serve = sync_to_async(self._files, thread_sensitive=False)
        markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """A file, or whatever else answers."""
        if request.path.startswith(self._files.static_prefix):
            file: HttpResponseBase | None = await self._serve(request)
            if file is not None:
                return file
        return await self.get_response(request)


def _no_such_file(request: HttpRequest) -> None:
    """What stands behind the files."""


class Session(PortalOnly, SessionMiddleware):
    """Log-in sessions."""


class Csrf(PortalOnly, CsrfViewMiddleware):
    """Forgery protection. The API carries keys, not cookies, and needs none."""

    async def process_view(self, request: HttpRequest, *view: Any) -> Any:  # type: ignore[override]
        """Check in this very coroutine: it does no I/O, and a thread hop costs more."""
        if request.path.startswith(settings.API_PATHS):
            return None
        return super().process_view(request, *view)


class Authentication(PortalOnly, AuthenticationMiddleware):
    """`request.user`, read lazily; a log-in that was ended elsewhere is over."""

    def process_request(self, request: HttpRequest) -> None:
        """In the thread in which Django's own runs."""
        super().process_request(request)
        if settings.SESSION_COOKIE_NAME in request.COOKIES:
            sessions.see(request, now=datetime.now(UTC))

    async def process_view(self, request: HttpRequest, *view: Any) -> Any:
        """Nothing to do before a view; Django's own hook would cost a thread hop."""
        return None


class Messages(PortalOnly, MessageMiddleware):
    """One-time notices."""


class Accounts:
    """Allauth's middleware, for pages alone."""

    sync_capable = False
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Awaitable[HttpResponseBase]]) -> None:
        self.get_response = get_response
        self._pages = AccountMiddleware(get_response)
        self.process_exception = self._pages.process_exception
        markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Pass API requests by."""
        if request.path.startswith(settings.API_PATHS):
            return await self.get_response(request)
        response: HttpResponseBase = await self._pages(request)
        return response


class PagePolicy:
    """What a browser may do with a page: nothing that our own pages don't need.

    By content type, since pages are found below API paths too; other answers are told only not
    to be taken for pages.
    """

    sync_capable = False
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Awaitable[HttpResponseBase]]) -> None:
        self.get_response = get_response
        markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Say it in headers."""
        response = await self.get_response(request)
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            for name, value in self._headers(request.path):
                response.headers.setdefault(name, value)
            if request.path.startswith(_LETTERED_PATHS):
                response.headers["Referrer-Policy"] = "strict-origin"
        return response

    def _headers(self, path: str) -> Iterable[tuple[str, str]]:
        yield "Content-Security-Policy", policy(path)
        yield "X-Frame-Options", settings.X_FRAME_OPTIONS
        yield "Referrer-Policy", "same-origin"
        yield "Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"


_NOTHING = {
    "default-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
    "img-src": "'self' data:",
    "style-src": "'self'",
}
_PORTAL = {"connect-src": "'self'", "script-src": "'self'"}
_PORTAL_PATHS = ("/api/docs", "/accounts/", "/o/", "/organizations/", "/invitations/")
_LETTERED_PATHS = ("/accounts/", "/invitations/")
"""Where links in mails lead: their addresses are secrets, which a proxy would log with the next
request. (Without any referrer browsers hide a form's origin too, which forgery protection needs.)
"""
_ADMIN = {**_PORTAL, "font-src": "'self'"}


def policy(path: str) -> str:
    """The Content-Security-Policy of the page at `path`."""
    more: dict[str, str] = {}
    if path.startswith("/admin/"):
        more = _ADMIN
    elif path.startswith(_PORTAL_PATHS):
        more = _PORTAL
    return "; ".join(f"{name} {value}" for name, value in {**_NOTHING, **more}.items())
