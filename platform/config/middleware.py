"""The one middleware every request passes: its id, its log line, its metrics."""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import HttpRequest, HttpResponseBase

from config.portal import PROBES
from kit import metrics, origin
from kit.ids import request_id

log = structlog.get_logger("http")

_LONGEST_LABEL = 128


class Observed:
    """Gives a request its server-made id and its caller's label, and reports how it went."""

    sync_capable = False
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Awaitable[HttpResponseBase]]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Pass the request on, between two readings of the clock."""
        started = time.perf_counter()
        origin.begin(origin.of_request(request))
        request.id = request_id(datetime.now(UTC))  # type: ignore[attr-defined]
        request.label = label(request.headers.get("X-Request-ID", ""))  # type: ignore[attr-defined]
        structlog.contextvars.bind_contextvars(request_id=str(request.id))  # type: ignore[attr-defined]
        response = await self.get_response(request)
        self._report(request, response, time.perf_counter() - started)
        response["X-Request-ID"] = str(request.id)  # type: ignore[attr-defined]
        if request.label:  # type: ignore[attr-defined]
            response["X-Client-Request-ID"] = request.label  # type: ignore[attr-defined]
        return response

    def _report(self, request: HttpRequest, response: HttpResponseBase, seconds: float) -> None:
        match = request.resolver_match
        route = match.route if match else "unmatched"
        metrics.REQUESTS.labels(route, request.method or "", str(response.status_code)).inc()
        metrics.SECONDS.labels(route).observe(seconds)
        # Django would log a second line of every error.
        response._has_been_logged = True  # type: ignore[attr-defined]
        # What machines ask every few seconds is worth a line only to those who debug.
        say = log.debug if request.path in PROBES else log.info
        say(
            "answered",
            method=request.method,
            path=_shown(request.path, match.route if match else ""),
            status=response.status_code,
            ms=round(seconds * 1000, 1),
        )


def _shown(path: str, route: str) -> str:
    """A page's route, since pages have links in mails whose last part lets in whoever has it."""
    is_page = route and not path.startswith(settings.API_PATHS)
    return f"/{route}" if is_page else path


def label(value: str) -> str:
    """The caller's own id of a request, cut and cleaned: a label, never our key."""
    return "".join(c for c in value[:_LONGEST_LABEL] if c.isascii() and c.isprintable())
