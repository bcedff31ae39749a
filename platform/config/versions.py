"""Versions of /api: chosen by path or by `Accept`, told in every answer, and counted.

`/api/v1/…` and `/api/v2/…` say it themselves. `/api/…` without a version is what `Accept:
application/vnd.aip.v2+json` says, and version 1 where it says nothing. What version 2 has better is
deprecated in version 1, by RFC 9745 and RFC 8594, with the way to it.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from prometheus_client import Counter

from kit.edge import refused
from kit.errors import Refused

VERSIONS = ("v1", "v2")
_VERSIONED = re.compile(r"/api/(v\d{1,3})(?=/)")
_ACCEPTED = re.compile(r"application/vnd\.aip\.(v\d{1,3})\+json")
_CHANGES = "/api/changes"
_OUTSIDE = ("/api/docs", "/api/schema", _CHANGES)
_SINCE, _SUNSET = datetime(2026, 11, 25, tzinfo=UTC), datetime(2027, 11, 25, tzinfo=UTC)

CALLS = Counter(
    "api_version_calls_total",
    "Requests by the API's version, and how it was chosen: path, accept or default.",
    ["version", "by"],
)


class NoVersion(Refused):
    """A version that there is not."""

    status, code = 406, "version_not_served"


@dataclass(frozen=True, slots=True)
class Deprecated:
    """An operation of version 1, and what stands for it, as a pattern and for people."""

    method: str
    path: re.Pattern[str]
    successor: str
    shown: str
    instead: str


DEPRECATED = (
    Deprecated(
        "POST",
        re.compile(r"/api/v1/infer"),
        "/api/v2/infer",
        "/api/v1/infer",
        "POST /api/v2/infer with Prefer: wait=",
    ),
    Deprecated(
        "GET",
        re.compile(r"/api/v1/model/info"),
        "/api/v2/models",
        "/api/v1/model/info",
        "GET /api/v2/models/{name}",
    ),
    Deprecated(
        "POST",
        re.compile(r"/api/v1/requests/([0-9a-f-]{36})/cancel"),
        r"/api/v2/jobs/\1/cancel",
        "/api/v1/requests/{id}/cancel",
        "POST /api/v2/jobs/{id}/cancel",
    ),
)
CHANGES = (
    (
        _SINCE,
        "Version 2: jobs first, one envelope (data, page, meta), cursors. Chosen by path, or by "
        "Accept: application/vnd.aip.v2+json below /api/.",
    ),
)
"""What changed, the newest first."""


async def changes(request: HttpRequest) -> HttpResponse:
    """The page that says what changed, and what will go."""
    context = {"changes": CHANGES, "deprecated": DEPRECATED, "since": _SINCE, "sunset": _SUNSET}
    return render(request, "changes.html", context)


class Versioned:
    """Finds the version that is asked for, and says in the answer which it was."""

    sync_capable = False
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Awaitable[HttpResponseBase]]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Pass the request on under its version's path."""
        if not request.path_info.startswith("/api/") or request.path_info.startswith(_OUTSIDE):
            return await self.get_response(request)
        found = _VERSIONED.match(request.path_info)
        accepted = _ACCEPTED.search(request.headers.get("Accept", ""))
        version = found[1] if found else accepted[1] if accepted else VERSIONS[0]
        if version not in VERSIONS:
            there = ", ".join(VERSIONS)
            return refused(request, NoVersion(f"There is no {version}; there are {there}."))
        if not found:
            rest = request.path_info.removeprefix("/api")
            request.path_info = request.path = f"/api/{version}{rest}"
        CALLS.labels(version, "path" if found else "accept" if accepted else "default").inc()
        response = await self.get_response(request)
        for name, value in _told(request, version).items():
            response[name] = value
        if not found:
            response["Vary"] = "Accept"
        return response


def _told(request: HttpRequest, version: str) -> Mapping[str, str]:
    said = {"API-Version": version}
    for each in DEPRECATED if version == "v1" else ():
        found = each.path.fullmatch(request.path_info)
        if found and request.method == each.method:
            there = found.expand(each.successor)
            return said | {
                "Deprecation": f"@{int(_SINCE.timestamp())}",
                "Sunset": format_datetime(_SUNSET, usegmt=True),
                "Link": f'<{there}>; rel="successor-version", <{_CHANGES}>; rel="deprecation"',
            }
    return said
