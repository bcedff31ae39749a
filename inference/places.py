"""Where a request is: in which state, at which place in line, and when its turn may come."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from kit.redis import Lua

_LUA = Path(__file__).parent / "lua"
_PLACE = Lua(_LUA / "place.lua", behind=[_LUA / "lines.lua"])
_OUTCOMES = {"cancelled": "cancelled", "failed": "failed", "shed": "failed", "unserved": "failed"}


@dataclass(frozen=True, slots=True)
class Place:
    """A request that Redis knows. `state` is waiting, running, finished, cancelled or failed.

    `line` counts from 1, while it waits; `starts_at` is known while workers report their pace.
    """

    state: str
    model: str
    priority: int
    tokens: int
    attempts: int
    created_at: datetime
    started_at: datetime | None
    first_token_at: datetime | None
    ended_at: datetime | None
    line: int | None
    starts_at: datetime | None


async def place(*, request: UUID, organization: int, now: datetime) -> Place | None:
    """Of a request of this organization, in flight or kept; None if there is none."""
    found = await _PLACE.arun([f"job:{request}"], [str(request), organization])
    if not found:
        return None
    state, model, priority, created, started, first, sealed, reason = (
        each.decode() for each in found[:8]
    )
    position, attempt, before, pace = found[8:]
    ended = state in ("sealed", "done")
    waiting = state == "waiting"
    soon = timedelta(milliseconds=(before + 1) * int(pace)) if waiting and pace else None
    return Place(
        state=_OUTCOMES.get(reason, "finished") if ended else state,
        model=model,
        priority=int(priority),
        tokens=int(position),
        attempts=int(attempt),
        created_at=_moment(created) or now,
        started_at=_moment(started),
        first_token_at=_moment(first),
        ended_at=_moment(sealed),
        line=before + 1 if waiting else None,
        starts_at=now + soon if soon else None,
    )


def _moment(milliseconds: str) -> datetime | None:
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC) if milliseconds else None
