"""Where a request comes from, for whoever must judge or record it.

The client's address is believed as far as our own proxies vouch for it: from the connection's peer
leftwards through X-Forwarded-For, one step for each address in `settings.TRUSTED_PROXIES`.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any

from django.conf import settings

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_LONGEST_AGENT = 200
_LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class Origin:
    """The client's address (None: not known), its User-Agent, and the organization it names."""

    address: Address | None = None
    agent: str = ""
    organization: str = ""


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
    )


def known(app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """An ASGI application that runs with its connection's origin; for WebSockets."""

    async def with_origin(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        begin(_of_scope(scope))
        await app(scope, receive, send)

    return with_origin


def network(text: str) -> Network:
    """An address or a CIDR block; raises `ValueError`."""
    return ip_network(text.strip())


def address(text: str) -> Address | None:
    """As a number; an IPv4 address that is written as IPv6 counts as IPv4."""
    try:
        found = ip_address(text.strip())
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


def _of_scope(scope: Mapping[str, Any]) -> Origin:
    sent: dict[bytes, list[str]] = {}
    for name, value in scope["headers"]:
        sent.setdefault(name.lower(), []).append(value.decode("latin1"))
    peer = (scope.get("client") or ("",))[0]
    names = (b"x-forwarded-for", b"user-agent", b"x-organization")
    return _origin(peer, *(",".join(sent.get(name, [])) for name in names))


def _origin(peer: str, forwarded: str, agent: str, organization: str) -> Origin:
    return Origin(
        _client(peer, forwarded),
        "".join(c for c in agent[:_LONGEST_AGENT] if c.isprintable()),
        organization[:_LONGEST_NAME],
    )


def _client(peer: str, forwarded: str) -> Address | None:
    """The nearest address that is not one of our proxies; None where one cannot be read."""
    trusted = _networks(tuple(settings.TRUSTED_PROXIES))
    found = address(peer)
    hops = [hop for hop in forwarded.split(",") if hop.strip()]
    while found is not None and hops and any(found in each for each in trusted):
        found = address(hops.pop())
    return found


@cache
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(network(text) for text in texts)
