"""A model's bell: rung by whoever puts a request in line, heard by a worker that has it loaded.

An announcement is a message of the broker's and goes to a worker that may have to load the model
first. Where workers wait already, one of them is woken by what the script of `inference.line` does
anyway: a bell that nobody answered within some milliseconds (who waits there is full, or dead) is
announced. Redis wakes whoever waits for the longest, so workers take turns.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import redis

from kit.redis import Lua, state

HEARD_MS = 2_000
"""How long a worker is taken to listen, unless it says so again."""
UNANSWERED_MS = 50
"""A bell that rings for longer is heard by nobody."""

_LUA = Path(__file__).parent / "lua"
_LISTEN, _RING = Lua(_LUA / "listen.lua"), Lua(_LUA / "ring.lua")


def listen(worker: str, models: Sequence[str]) -> None:
    """The worker answers these bells, for `HEARD_MS`."""
    if models:
        _LISTEN([_ears(model) for model in models], [worker, HEARD_MS])


def leave(worker: str, models: Sequence[str]) -> None:
    """It answers them no more."""
    for model in models:
        state().zrem(_ears(model), worker)


def wait(client: redis.Redis, models: Sequence[str], *, seconds: float) -> str | None:
    """The model whose bell rang; None if none did. `client` waits for longer than `seconds`."""
    rung = cast("list[bytes] | None", client.blpop([_bell(each) for each in models], seconds))
    return rung[0].decode().removeprefix("queue:").removesuffix(":bell") if rung else None


def ring(model: str) -> bool:
    """Once more, should requests wait still, for whoever listens next; False if nobody does."""
    return bool(_RING([f"queue:{model}", _ears(model), _bell(model)], []))


def _bell(model: str) -> str:
    return f"queue:{model}:bell"


def _ears(model: str) -> str:
    return f"queue:{model}:ears"
