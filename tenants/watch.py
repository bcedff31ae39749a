"""Callers of what is open for long, streams and sockets, judged again several times a second.

A revoked key, an ended log-in, a lost membership or a suspension thereby reaches what is open
within a second: half a second that a record is held (`tenants.records`), and a quarter between two
looks. One task an event loop looks at each caller once, however many streams are theirs.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar
from weakref import WeakKeyDictionary

import structlog
from django.db import DatabaseError
from redis.exceptions import RedisError

from kit.errors import Refused, Unavailable
from tenants.auth import Caller, recalled
from tenants.known import LOGINS
from tenants.tokens import NotLoggedIn

_BETWEEN_SECONDS = 0.25
_AT_ONCE = 64

Stop = Callable[[Refused], None]
Name = tuple[int, str, str, str]
log = structlog.get_logger()


@contextmanager
def watched(caller: Caller, *, scope: str, stop: Stop) -> Iterator[None]:
    """While the block runs, `stop` is called, once, with why the caller would be refused now."""
    watch = _Watch.here()
    name = (caller.organization, caller.key, caller.login, scope)
    watch.add(name, caller, stop)
    try:
        yield
    finally:
        watch.drop(name, stop)


def leave_loop() -> None:
    """Forget the running loop's, before the loop ends: kept, it would keep the loop."""
    _Watch._by_loop.pop(asyncio.get_running_loop(), None)


class _Watch:
    """Of one event loop."""

    _by_loop: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, "_Watch"]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._open: dict[Name, tuple[Caller, list[Stop]]] = {}
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def here(cls) -> "_Watch":
        loop = asyncio.get_running_loop()
        watch = cls._by_loop.get(loop)
        if watch is None:
            watch = cls._by_loop[loop] = cls()
        return watch

    def add(self, name: Name, caller: Caller, stop: Stop) -> None:
        self._open.setdefault(name, (caller, []))[1].append(stop)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look())

    def drop(self, name: Name, stop: Stop) -> None:
        _, stops = self._open.get(name, (None, []))
        if stop in stops:
            stops.remove(stop)
        if not stops:
            self._open.pop(name, None)

    async def _look(self) -> None:
        while self._open:
            await asyncio.sleep(_BETWEEN_SECONDS)
            names = list(self._open)
            for start in range(0, len(names), _AT_ONCE):
                await asyncio.gather(*map(self._judge, names[start : start + _AT_ONCE]))

    async def _judge(self, name: Name) -> None:
        caller, _ = self._open.get(name, (None, []))
        if caller is None:
            return
        try:
            await _judge_again(caller, scope=name[3])
        except (Unavailable, RedisError, DatabaseError) as error:
            # One that cannot be told of is not one that was shut.
            log.debug("an open caller cannot be judged", error=str(error))
        except Refused as refusal:
            _, stops = self._open.pop(name, (None, []))
            for stop in stops:
                stop(refusal)
        except Exception:
            log.exception("an open caller could not be judged")


async def _judge_again(caller: Caller, *, scope: str) -> None:
    """Raise as `authenticate` would; where they come from is not looked at again."""
    if caller.login:
        login = await LOGINS.get(caller.login)
        if login is None or login.ended:
            raise NotLoggedIn("This log-in has ended; log in again.")
    (await recalled(caller.key, slug=caller.slug)).require(scope)
