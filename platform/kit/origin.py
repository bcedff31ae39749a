"""Where a request comes from, for whoever must judge or record it.

The client's address is believed as far as our own proxies vouch for it: from the connection's peer
leftwards through X-Forwarded-For, one step for each address in `settings.TRUSTED_PROXIES`.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.http import HttpRequest

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_LONGEST_AGENT = 200
_LONGEST_NAME = 64
_SCHEMES = {"http": ("http", "https"), "websocket": ("ws", "wss")}


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it was sent, for whoever checks its signature. `headers` are in order."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Origin:
    """The client's address (None: not known), its User-Agent, organization and project.

    `sent` gives the whole request, where there is one.
    """

    address: Address | None = None
    agent: str = ""
    organization: str = ""
    project: str = ""
    sent: Callable[[], Sent] | None = field(default=None, compare=False)


_current: ContextVar[Origin] = ContextVar("origin", default=Origin())  # noqa: B039  frozen


def current() -> Origin:
    """Of the request that runs here; of nobody outside a request."""
    return _current.get()


def begin(origin: Origin) -> None:
    """What runs from here on, in this context, comes from there."""
    _current.set(origin)


def of_meta(meta: Mapping[str, Any]) -> Origin:
    """From an HTTP request's META."""
    return _origin(
        meta.get("REMOTE_ADDR") or "",
        meta.get("HTTP_X_FORWARDED_FOR", ""),
        meta.get("HTTP_USER_AGENT", ""),
        meta.get("HTTP_X_ORGANIZATION", ""),
        meta.get("HTTP_X_PROJECT", ""),
    )


def known(app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """An ASGI application that runs with its connection's origin; for WebSockets."""

    async def with_origin(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        begin(replace(of_scope(scope), sent=lambda: _handshake(scope)))
        await app(scope, receive, send)

    return with_origin


def over(app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """An ASGI application that knows whether its client came over TLS: by our own proxies' word
    alone, since anybody can write an X-Forwarded-Proto."""

    async def with_scheme(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] in _SCHEMES:
            scope = {**scope, "scheme": _scheme(scope)}
        await app(scope, receive, send)

    return with_scheme


def network(text: str) -> Network:
    """An address or a CIDR block; raises `ValueError`."""
    return ip_network(text.strip())


@lru_cache(4096)
def address(text: str) -> Address | None:
    """As a number; an IPv4 address that is written as IPv6 counts as IPv4."""
    try:
        found = ip_address(text.strip())
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


def counted_as(address: Address | None) -> str:
    """The name under which an address is counted: of IPv6 the /64, all of which one client has."""
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, 64), strict=False))
    return str(address)


def of_request(request: HttpRequest) -> Origin:
    """Of an HTTP request, which can be asked for as it was sent."""
    return replace(of_meta(request.META), sent=lambda: _sent(request))


def of_scope(scope: Mapping[str, Any]) -> Origin:
    """From an ASGI scope."""
    sent: dict[bytes, list[str]] = {}
    for name, value in scope["headers"]:
        sent.setdefault(name.lower(), []).append(value.decode("latin1"))
    peer = (scope.get("client") or ("",))[0]
    names = (b"x-forwarded-for", b"user-agent", b"x-organization", b"x-project")
    return _origin(peer, *(",".join(sent.get(name, [])) for name in names))


def _sent(request: HttpRequest) -> Sent:
    scope: Mapping[str, Any] = getattr(request, "scope", {})
    origin = f"{request.scheme}://{request.headers.get('Host', '')}"
    return Sent(
        request.method or "",
        origin + _target(scope.get("raw_path"), request.path, request.META["QUERY_STRING"]),
        tuple(request.headers.items()),
        request.body,
    )


def _handshake(scope: Mapping[str, Any]) -> Sent:
    pairs = [(name.decode("latin1"), value.decode("latin1")) for name, value in scope["headers"]]
    host = next((value for name, value in pairs if name.lower() == "host"), "")
    query = scope.get("query_string", b"").decode("latin1")
    target = _target(scope.get("raw_path"), scope["path"], query)
    return Sent("GET", f"http://{host}{target}", tuple(pairs))


def _scheme(scope: Mapping[str, Any]) -> str:
    own: str = scope.get("scheme", "http")
    said = [value for name, value in scope["headers"] if name.lower() == b"x-forwarded-proto"]
    peer = address((scope.get("client") or ("",))[0])
    if not said or peer is None or not _is_ours(peer):
        return own
    nearest = said[-1].decode("latin1").rpartition(",")[2].strip().lower()
    plain, secure = _SCHEMES[scope["type"]]
    return secure if nearest in ("https", "wss") else plain


def _target(raw: bytes | None, path: str, query: str) -> str:
    """As its sender wrote it, percents and all, where the server has kept that."""
    written = raw.decode("latin1").partition("?")[0] if raw else quote(path)
    return f"{written}?{query}" if query else written


def project(name: str) -> str:
    """A project's name as it is counted by: short, and without what separates names.

    What is so already stays as it is.
    """
    kept = "".join(c for c in name[:_LONGEST_NAME] if c.isprintable())
    return kept.replace("|", "/").strip()


def _origin(peer: str, forwarded: str, agent: str, organization: str, named: str) -> Origin:
    return Origin(
        _client(peer, forwarded),
        "".join(c for c in agent[:_LONGEST_AGENT] if c.isprintable()),
        organization[:_LONGEST_NAME],
        project(_utf8(named)),
    )


def _utf8(header: str) -> str:
    """A header that was sent as UTF-8, as every program does, and read as Latin-1 on the way."""
    try:
        return header.encode("latin1").decode()
    except UnicodeError:
        return header


def _client(peer: str, forwarded: str) -> Address | None:
    """The nearest address that is not one of our proxies; None where one cannot be read."""
    found = address(peer)
    hops = [hop for hop in forwarded.split(",") if hop.strip()]
    while found is not None and hops and _is_ours(found):
        found = address(hops.pop())
    return found


def _is_ours(found: Address) -> bool:
    return any(found in each for each in _networks(tuple(settings.TRUSTED_PROXIES)))


@cache
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(network(text) for text in texts)
