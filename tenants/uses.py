"""When each API key was last used, without a write a request.

A process gathers uses in memory for a few seconds and tells Redis all at once; a scheduled task
brings them to the keys' rows. A process that is killed loses its last few seconds.
"""

import asyncio
import time
from datetime import UTC, datetime
from weakref import WeakKeyDictionary

import structlog
from django.db import connection
from redis.exceptions import RedisError, ResponseError

from kit.redis import async_state, state

GATHER_SECONDS = 5.0
_NAME, _BEING_WRITTEN = "keys:used", "keys:used:writing"

log = structlog.get_logger()
_gathered: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, float]] = WeakKeyDictionary()
_telling: set[asyncio.Task[None]] = set()


def note(key: str) -> None:
    """The key of this public id is used, now, in the running loop."""
    loop = asyncio.get_running_loop()
    gathered = _gathered.setdefault(loop, {})
    if not gathered:
        loop.call_later(GATHER_SECONDS, _tell_soon, gathered)
    gathered[key] = time.time()


def _tell_soon(gathered: dict[str, float]) -> None:
    used = dict(gathered)
    gathered.clear()
    task = asyncio.get_running_loop().create_task(tell(used))
    _telling.add(task)
    task.add_done_callback(_telling.discard)


async def tell(used: dict[str, float]) -> None:
    """Keys and when they were used, in seconds since 1970, to Redis."""
    try:
        await async_state().hset(_NAME, mapping={key: str(at) for key, at in used.items()})
    except RedisError as error:
        log.warning("uses of keys are lost", keys=len(used), error=str(error))


def write() -> int:
    """From Redis to the rows; how many keys. What a killed run left is written by the next."""
    redis = state()
    if not redis.exists(_BEING_WRITTEN):
        try:
            redis.rename(_NAME, _BEING_WRITTEN)
        except ResponseError:
            return 0
    used: dict[bytes, bytes] = redis.hgetall(_BEING_WRITTEN)  # type: ignore[assignment]
    keys = [key.decode() for key in used]
    times = [datetime.fromtimestamp(float(at), UTC) for at in used.values()]
    with connection.cursor() as cursor:
        cursor.execute(_WRITE, [keys, times])
    redis.delete(_BEING_WRITTEN)
    return len(used)


_WRITE = """
UPDATE public.tenants_apikey AS key SET last_used_at = used.at
FROM unnest(%s::text[], %s::timestamptz[]) AS used (id, at)
WHERE key.id = used.id AND (key.last_used_at IS NULL OR key.last_used_at < used.at)
"""
