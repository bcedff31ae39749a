"""The state Redis: clients, and Lua scripts kept in files beside the module that owns them.

State (streams, leases, limits, credit) lives here and must survive a restart; caches are at
CACHE_URL and may vanish.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
from django.conf import settings
from redis.exceptions import NoScriptError

_TIMEOUTS: dict[str, Any] = {"socket_connect_timeout": 2.0, "socket_timeout": 5.0}

_CONNECTIONS = 64
"""A loop's; a crowd beyond them waits its turn."""

_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, redis.asyncio.Redis] = WeakKeyDictionary()

Argument = str | bytes | int


@cache
def state() -> redis.Redis:
    """The blocking client, for workers and commands; thread safe. Replies are bytes."""
    return redis.Redis.from_url(settings.REDIS_URL, health_check_interval=30, **_TIMEOUTS)


def async_state() -> redis.asyncio.Redis:
    """The asyncio client of the running event loop. Replies are bytes."""
    loop = asyncio.get_running_loop()
    client = _by_loop.get(loop)
    if client is None:
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            settings.REDIS_URL,
            health_check_interval=30,
            max_connections=_CONNECTIONS,
            timeout=5,
            **_TIMEOUTS,
        )
        client = redis.asyncio.Redis.from_pool(pool)
        _by_loop[loop] = client
    return client


@cache
def cached() -> redis.Redis:
    """A blocking client of the cache Redis, which may be away or forget: whoever asks goes on
    without it, soon."""
    return redis.Redis.from_url(
        settings.CACHE_URL,
        health_check_interval=30,
        socket_connect_timeout=0.25,
        socket_timeout=0.25,
    )


async def leave_loop() -> None:
    """Close the running loop's client, before the loop ends: kept, it would keep the loop."""
    client = _by_loop.pop(asyncio.get_running_loop(), None)
    if client is not None:
        await client.aclose()


def listener() -> redis.Redis:
    """A client of its own whose connection may wait for messages without end."""
    return redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=2.0, socket_timeout=None)


def async_listener() -> redis.asyncio.Redis:
    """`listener` on asyncio."""
    return redis.asyncio.Redis.from_url(
        settings.REDIS_URL, socket_connect_timeout=2.0, socket_timeout=None
    )


class UnsafeState(Exception):
    """The state Redis could forget what it was told."""


def check_state() -> None:
    """Raise `UnsafeState` unless the state Redis keeps what it is given."""
    config = state().config_get("appendonly", "maxmemory-policy")
    if config.get("appendonly") != "yes" or config.get("maxmemory-policy") != "noeviction":
        raise UnsafeState(
            "The Redis at REDIS_URL holds streams and credit and must not lose them: set "
            "`appendonly yes` and `maxmemory-policy noeviction` there (a cache may be elsewhere, "
            "at CACHE_URL)."
        )


class Lua:
    """One script, sent by its hash; Redis is given the source when it has lost it.

    Scripts are atomic and idempotent, so that a pipeline which met a Redis without them can be
    sent again whole. `behind` are files that stand before it: what several scripts share.
    """

    known: ClassVar[list["Lua"]] = []

    def __init__(self, path: Path, *, behind: Sequence[Path] = ()) -> None:
        self.source = "".join(each.read_text() for each in (*behind, path))
        self.sha = sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        Lua.known.append(self)

    def __call__(self, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run now, on the blocking client."""
        try:
            return state().evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return state().eval(self.source, len(keys), *keys, *args)

    async def arun(self, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run now, on the asyncio client."""
        try:
            return await async_state().evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await async_state().eval(self.source, len(keys), *keys, *args)

    def add(self, pipe: Any, keys: Sequence[str], args: Sequence[Argument]) -> None:
        """Queue the call on a pipeline that `pipeline` or `async_pipeline` sends."""
        pipe.evalsha(self.sha, len(keys), *keys, *args)


def pipeline(build: Callable[[Any], None]) -> list[Any]:
    """Send what `build` queues in one round trip; one more where Redis had lost the scripts."""
    try:
        return _once(build)
    except NoScriptError:
        for lua in Lua.known:
            state().script_load(lua.source)
        return _once(build)


async def async_pipeline(build: Callable[[Any], None], *, atomic: bool = False) -> list[Any]:
    """`pipeline` on the asyncio client; `atomic`: with nothing of others' in between."""
    try:
        return await _async_once(build, atomic)
    except NoScriptError:
        for lua in Lua.known:
            await async_state().script_load(lua.source)
        return await _async_once(build, atomic)


def _once(build: Callable[[Any], None]) -> list[Any]:
    with state().pipeline(transaction=False) as pipe:
        build(pipe)
        return pipe.execute()


async def _async_once(build: Callable[[Any], None], atomic: bool) -> list[Any]:
    async with async_state().pipeline(transaction=atomic) as pipe:
        build(pipe)
        return await pipe.execute()
