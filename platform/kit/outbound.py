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
from aiohttp.connector import AddrInfoType
from django.conf import settings

from kit.origin import Address, Network, network

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
