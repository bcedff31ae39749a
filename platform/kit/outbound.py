"""Calls to addresses that somebody else named: never to this machine or its network by mistake.

Remote models and webhooks name hosts. A host that resolves to a private, link-local or otherwise
special address (cloud metadata, Redis, a neighbour) is refused, unless `settings.OUTBOUND_NETWORKS`
has the address. What is judged is the very address that is connected to, at the moment of
connecting: a name that resolves otherwise the second time (DNS rebinding) changes nothing.
"""

import socket
from functools import cache
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any

import aiohttp
import requests
from aiohttp.connector import AddrInfoType
from django.conf import settings
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from kit.origin import Address, Network, network

_SECONDS = 10.0
_TRANSLATED = IPv6Network("64:ff9b::/96")
"""NAT64 (RFC 6052): the last four bytes are an IPv4 address."""


class AddressRefused(OSError):
    """An address that is not for the outside."""


def connector(**options: Any) -> aiohttp.TCPConnector:
    """For an `aiohttp.ClientSession` whose URLs others have a say in."""
    return aiohttp.TCPConnector(socket_factory=_socket, **options)


def may_call(address: Address) -> bool:
    """Whether it is public, or the operator allows it."""
    if any(address in each for each in _allowed(tuple(settings.OUTBOUND_NETWORKS))):
        return True
    return all(each.is_global and not each.is_multicast for each in _readings(address))


def _socket(info: AddrInfoType) -> socket.socket:
    family, kind, protocol, _, where = info
    address = ip_address(str(where[0]).partition("%")[0])
    if not may_call(address):
        raise AddressRefused(
            f"{address} is not a public address; the operator may allow it in OUTBOUND_NETWORKS"
        )
    return socket.socket(family, kind, protocol)


def _readings(address: Address) -> list[Address]:
    """The address, and the IPv4 addresses that it may be a cloak of."""
    if not isinstance(address, IPv6Address):
        return [address]
    inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _TRANSLATED:
        inner.append(ip_address(int(address) & 0xFFFFFFFF))
    cloaked: list[Address] = [each for each in inner if each is not None]
    return cloaked if address.ipv4_mapped else [address, *cloaked]


@cache
def _allowed(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(network(text) for text in texts)


def session() -> requests.Session:
    """A `requests` session for URLs that others have a say in; each redirect is judged too."""
    made = requests.Session()
    made.trust_env, made.max_redirects = False, 3
    for scheme in ("http://", "https://"):
        made.mount(scheme, _Guarded())
    return made


class _Guarded(HTTPAdapter):
    """Connects to addresses that are for the outside, and waits 10 s at most."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """With connections that judge where they go."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def send(self, request: Any, *args: Any, **kwargs: Any) -> requests.Response:
        """As ever, but not for ever."""
        kwargs["timeout"] = kwargs.get("timeout") or _SECONDS
        return super().send(request, *args, **kwargs)


class _Judged:
    """Mixed in before a connection: it goes to an address that has been judged."""

    def _new_conn(self) -> socket.socket:
        host, port = self._dns_host, self.port  # type: ignore[attr-defined]
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except UnicodeError as error:  # An empty label, or one of more than 63 characters.
            raise AddressRefused(f"{host[:80]} is no name of a host") from error
        for info in found:
            sock = _socket(info)
            sock.settimeout(_SECONDS)
            try:
                sock.connect(info[4])
            except OSError:
                sock.close()
                continue
            return sock
        raise AddressRefused(f"{host} does not answer at port {port}")


class _Http(_Judged, HTTPConnection):
    """Plain."""


class _Https(_Judged, HTTPSConnection):
    """Encrypted."""


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https
