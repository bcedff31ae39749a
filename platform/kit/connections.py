"""How many connections of this process one address or one key may hold open.

A flood from one place then leaves room for others. Behind a proxy that is not in
`settings.TRUSTED_PROXIES` all clients have the proxy's address.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from django.conf import settings

from kit.errors import Refused

_open: Counter[str] = Counter()
_here: ContextVar[list[str] | None] = ContextVar("connection", default=None)


class TooManyConnections(Refused):
    """Close some, or wait until they have ended."""

    status, code = 429, "too_many_connections"


@contextmanager
def connection(address: str) -> Iterator[None]:
    """One more of the address, until the block ends; raises `TooManyConnections`."""
    names: list[str] = []
    _count(names, f"address {address}", settings.CONNECTIONS_PER_ADDRESS)
    token = _here.set(names)
    try:
        yield
    finally:
        _here.reset(token)
        for name in names:
            _open[name] -= 1
            if _open[name] <= 0:
                del _open[name]


def belongs_to(key: str) -> None:
    """The running request's connection is the key's too, once; raises `TooManyConnections`."""
    names = _here.get()
    name = f"API key {key}"
    if names is not None and name not in names:
        _count(names, name, settings.CONNECTIONS_PER_KEY)


def _count(names: list[str], name: str, most: int) -> None:
    if _open[name] >= most:
        raise TooManyConnections(
            f"The {name} has {most:,} connections open here, the most it may; close some first.",
            retry_after=1,
        )
    _open[name] += 1
    names.append(name)
