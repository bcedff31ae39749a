"""Answers in the cache Redis, as `inference.worker.replays` seals them: each organization's within
a share of its own, so that nobody's answers push out anybody else's.

An answer is an entry, `<model>:<mark of what was asked>`. Everything here raises RedisError where
the cache does not answer; it may forget at any time what it was given.
"""

from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings

from kit.redis import cached

_PUT = (Path(__file__).parent / "lua" / "answer_put.lua").read_text()


def fetch(organization: int, entry: str) -> tuple[bytes, int] | None:
    """The sealed answer, and for how many seconds it will be there; None where there is none."""
    name = _names(organization, entry)[0]
    with cached().pipeline(transaction=False) as pipe:
        pipe.get(name)
        pipe.ttl(name)
        sealed, left = pipe.execute()
    return (sealed, left) if sealed is not None and left > 0 else None


def put(organization: int, entry: str, sealed: bytes, *, seconds: int) -> bool:
    """Keep it for so long, in the place of the organization's own whose time ends first; False
    where it is larger than the whole share (`settings.ANSWERS_MEMORY`)."""
    arguments = [entry, sealed, seconds, settings.ANSWERS_MEMORY, f"answer:{organization}:"]
    return bool(_script()(_names(organization, entry), arguments, client=cached()))


def _names(organization: int, entry: str) -> list[str]:
    return [
        f"answer:{organization}:{entry}",
        f"answers:{organization}",
        f"answers:{organization}:sizes",
    ]


@cache
def _script() -> Any:
    return cached().register_script(_PUT)
