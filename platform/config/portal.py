"""Django's middleware for people's pages; API paths pass it by without a thread hop."""

from typing import Any

from django.conf import settings
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.messages.middleware import MessageMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.http import HttpRequest
from django.middleware.clickjacking import XFrameOptionsMiddleware
from django.middleware.csrf import CsrfViewMiddleware
from django.middleware.security import SecurityMiddleware
from whitenoise.middleware import WhiteNoiseMiddleware


class PortalOnly:
    """Mixed in before a middleware: it runs for pages alone."""

    def __call__(self, request: HttpRequest) -> Any:
        if request.path.startswith(settings.API_PATHS):
            return self.get_response(request)  # type: ignore[attr-defined]
        return super().__call__(request)  # type: ignore[misc]


class Security(PortalOnly, SecurityMiddleware):
    """Redirect to HTTPS, HSTS, referrer policy."""


class WhiteNoise(PortalOnly, WhiteNoiseMiddleware):  # type: ignore[misc]
    """Static files."""


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
    """`request.user`, read lazily."""

    async def process_view(self, request: HttpRequest, *view: Any) -> Any:
        """Nothing to do before a view; Django's own hook would cost a thread hop."""
        return None


class Messages(PortalOnly, MessageMiddleware):
    """One-time notices."""


class ClickJacking(PortalOnly, XFrameOptionsMiddleware):
    """No framing."""
