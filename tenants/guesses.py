"""Keys that nobody has: how many of them one address may have us look for.

A key's checksum can be computed by anybody, so whoever makes keys up has each looked for in the
database, by the same few threads that look for genuine ones after a while. What is known here or in
Redis passes by all of this.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from kit import origin
from kit.errors import Refused
from kit.redis import async_state
from tenants.records import UNKNOWN

MISSES, WINDOW_MS = 60, 60_000
"""What one address may ask for in vain in a minute."""
AT_ONCE, AT_ONCE_ALTOGETHER = 16, 256
"""Look-ups of one address, and of all, that this process has under way."""

_under_way: Counter[str] = Counter()


class TooManyGuesses(Refused):
    """Made-up keys or organizations; what is known is not refused by this."""

    status, code = 429, "too_many_attempts"


async def bounded(look: Callable[[], Awaitable[bytes]]) -> bytes:
    """What `look` finds for the running request; raises `TooManyGuesses` instead of looking."""
    where = origin.counted_as(origin.current().address)
    name = f"misses:{where}"
    with _one_more(where):
        if int(await async_state().get(name) or 0) >= MISSES:
            wait_ms = max(1, await async_state().pttl(name))
            raise TooManyGuesses(
                f"Too many unknown API keys or organizations came from {where}. Check what you "
                f"send, and try again in {wait_ms / 1000:.0f} s.",
                retry_after=wait_ms / 1000,
            )
        found = await look()
        if found == UNKNOWN:
            async with async_state().pipeline() as pipe:
                pipe.set(name, 0, nx=True, px=WINDOW_MS)
                pipe.incr(name)
                await pipe.execute()
    return found


@contextmanager
def _one_more(where: str) -> Iterator[None]:
    if _under_way[where] >= AT_ONCE or _under_way.total() >= AT_ONCE_ALTOGETHER:
        raise TooManyGuesses(
            "Too many API keys that are not known here are being looked for; try again.",
            retry_after=1,
        )
    _under_way[where] += 1
    try:
        yield
    finally:
        _under_way[where] -= 1
        if not _under_way[where]:
            del _under_way[where]
