"""A request on its way: waiting in its organization's line, leased to a worker, sealed, done.

The state machine lives in Redis and moves in Lua alone (lua/*.lua), so that every move is atomic
and fenced by the attempt's number:

    waiting → running → sealed → done        a lease that expires leads from running to waiting
    waiting → sealed                         cancelled before a worker took it

Time is Redis's own.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from inference.job import Job as Job
from inference.job import Reuse as Reuse
from inference.job import asked_place as asked_place
from kit.redis import Argument, Lua, async_state, state

LEASE_MS = 6_000
"""How long a worker that fell silent keeps its requests."""
SILENT_MS = 2_000
"""The same for one that does not even listen any more: its process is dead."""
MOST_CRASHES = 3
"""After so many workers that died before its next token a request is taken for the cause."""
MOST_ATTEMPTS = 20
"""The same for workers that died later."""
KEPT_SECONDS = 3600
"""How long an ended request's stream can still be read."""
KEPT_LONG_SECONDS = 86_400
"""The same where callers may come late: in background, or under an Idempotency-Key."""
KEPT_NOTHING_SECONDS = 300
"""The same for an organization that wants nothing kept."""
PRIORITIES = 3
MOST_CHOICES = 8
"""Answers to a prompt that a request may ask for."""

_LUA = Path(__file__).parent / "lua"
_LINES = [_LUA / "lines.lua"]
_CLAIM, _RENEW = (Lua(_LUA / f"{n}.lua", behind=_LINES) for n in ("claim", "renew"))
_REQUEUE, _CANCEL = (Lua(_LUA / f"{n}.lua", behind=_LINES) for n in ("requeue", "cancel"))
_TURN_AWAY, _EXPIRE = (Lua(_LUA / f"{n}.lua", behind=_LINES) for n in ("turn_away", "expire"))
_REAPER = Lua(_LUA / "reaper.lua", behind=_LINES)
_ATTACH, _TELL = (Lua(_LUA / f"{n}.lua") for n in ("attach", "tell"))

_CLASS = 10**13
CLASSES = tuple(each * _CLASS for each in range(2 * PRIORITIES))
"""From which score on whose requests wait: by priority, and of each the patient ones last."""
IMPATIENT = CLASSES[::2]
"""Those for whose answers somebody waits."""


def in_class(pipe: Any, model: str, first: int) -> None:
    """Queue the question how many of a class wait."""
    pipe.zcount(f"queue:{model}", first, f"({first + _CLASS}")


TOLD_MS = 1_000
"""How long an announcement is taken to be under way; a lost one holds the next back for no more."""
_MOST_PASSES = 8
"""How many full workers pass an announcement on."""
_RENEWED_AT_ONCE = 200
"""Leases in one script call: while it runs no token goes out."""

LEASES, SEALED, BEATS = "leases", "sealed", "reaper:beats"


class Verdict(StrEnum):
    """What Redis says of a request that a worker believes to hold."""

    OK = "ok"
    LOST = "lost"


class TurnedAway(StrEnum):
    """Why a request that was in line ended without a worker. It may be sent again."""

    SHED = "shed"
    """The line was full, and others had more right to it."""
    UNSERVED = "unserved"
    """No worker serves the model."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a reader needs to know of a request that somebody else has sent."""

    id: UUID
    organization: int
    model: str
    model_version: str
    state: str
    key: str
    """The API key that sent it."""


class Leaving(StrEnum):
    """What becomes of a request whose last reader has left before its end."""

    CANCEL = "cancel"
    LINGER = "linger"
    """Readers have some seconds to come back, then it is cancelled."""
    CONTINUE = "continue"


@dataclass(frozen=True, slots=True)
class Claim:
    """A leased request: `attempt` fences it, `position` tokens were delivered before."""

    job: Job
    attempt: int
    position: int
    suspect: bool = False
    """Whether workers died under it: one more, before its next token, and it is set aside."""
    left: float | None = None
    """Seconds of its time, when it was leased; None: it is never over."""


class Reaper(IntEnum):
    """What a worker is to the requests of dead ones."""

    OTHER = 0
    """Another worker reaps."""
    WAITS = 1
    """It reaps, but must not yet: leases say nothing before Redis has answered for a whole one."""
    OF_DEAF = 2
    """It takes up what those had who do not even listen any more."""
    REAPS = 3


def heard(model: str) -> None:
    """An announcement has come, and who got it is about to look: what comes now is told again."""
    state().delete(f"queue:{model}:told")


def to_be_told(model: str, *, passed: int = 0) -> bool:
    """Whether some wait for a model and nobody else has told the workers yet.

    `passed` full workers have passed the announcement on: when all have, nobody tells them for a
    while, for each claims by itself as soon as it has room.
    """
    return bool(_TELL([f"queue:{model}", "workers"], [passed, _MOST_PASSES, TOLD_MS]))


def claim(*, model: str, worker: str, passing_over: Collection[int] = frozenset()) -> Claim | None:
    """Lease the next waiting request for `model`, if there is one; none of these organizations."""
    found = _CLAIM([f"queue:{model}", LEASES], [worker, LEASE_MS, PRIORITIES, *passing_over])
    if not found:
        return None
    _, attempt, position, spec, sealed, suspect, left = found
    job = Job.load(spec, sealed or b"")
    return Claim(
        job=job,
        attempt=attempt,
        position=position,
        suspect=bool(suspect),
        left=None if left is None else left / 1000,
    )


def renew(held: Sequence[tuple[UUID, int, bool]]) -> list[str]:
    """Prolong leases on (request, attempt, whether its engine has begun it); a `Verdict` or the
    reason to cancel for each."""
    verdicts: list[str] = []
    for start in range(0, len(held), _RENEWED_AT_ONCE):
        arguments: list[Argument] = [LEASE_MS]
        for request, attempt, begun in held[start : start + _RENEWED_AT_ONCE]:
            arguments += [str(request), attempt, int(begun)]
        verdicts += [reply.decode() for reply in _RENEW([LEASES], arguments)]
    return verdicts


def unclaimed(model: str, *, older_than_ms: int) -> int:
    """How many requests have waited longer than that for a worker."""
    seconds, micros = state().time()
    border = seconds * 1000 + micros // 1000 - older_than_ms
    with state().pipeline(transaction=False) as pipe:
        for first in CLASSES:
            pipe.zcount(f"queue:{model}", first, first + border)
        return sum(pipe.execute())


def beat(*, worker: str) -> Reaper:
    """Redis answers this worker; whether it is the one that reaps, and may."""
    run = str(state().info("server")["run_id"])
    arguments: list[Argument] = [worker, SILENT_MS, LEASE_MS, LEASE_MS // 2, run]
    return Reaper(_REAPER(["reaper", BEATS], arguments))


def requeue_expired(*, most: int = 100, of_deaf: bool = False) -> list[str]:
    """Put requests of dead workers back in line; the model of each. `of_deaf`: only of those that
    do not listen any more.

    None, if no worker has given a sign for half a lease: then Redis hung, and not they.
    """
    limits = [most, MOST_CRASHES, MOST_ATTEMPTS, LEASE_MS - SILENT_MS, LEASE_MS // 2]
    limits.append(int(of_deaf))
    return _models(_REQUEUE([LEASES, SEALED, BEATS], ["expired", *limits]))


def give_back(held: Iterable[tuple[UUID, int]]) -> list[str]:
    """Put requests that this worker will not finish back in line; the model of each."""
    arguments: list[Argument] = ["given"]
    for request, attempt in held:
        arguments += [str(request), attempt]
    return _models(_REQUEUE([LEASES, SEALED, BEATS], arguments)) if len(arguments) > 1 else []


def turn_away(model: str, *, after_ms: int, unread_after_ms: int, most: int = 1000) -> int:
    """Seal requests that wait for a model which nobody serves; how many."""
    limits = [after_ms, unread_after_ms, most]
    return int(_TURN_AWAY([f"queue:{model}", SEALED], limits))


def expire(model: str, *, most: int = 100) -> int:
    """Seal requests whose time is over before a worker had them; how many."""
    return int(_EXPIRE([f"queue:{model}", SEALED], [most]))


async def exists(request: UUID) -> bool:
    """Whether it got in, and is in flight or kept."""
    return bool(await async_state().exists(f"job:{request}"))


async def came_to_nothing(request: UUID) -> bool:
    """Whether it failed, or ended in line: it was free, and sending it again is another request."""
    reason = cast("bytes | None", await async_state().hget(f"job:{request}", "reason"))
    return reason is not None and reason.decode() in {"failed", *TurnedAway}


async def attach(*, request: UUID, organization: int, web: str) -> Head | None:
    """One more reader of a request of this organization, in flight or kept; None if there is none.

    Its live messages go to the web process `web` too. Whoever attaches must `leave`.
    """
    found = await _ATTACH.arun([f"job:{request}"], [organization, web])
    if not found:
        return None
    state, model, version, key = (each.decode() for each in found)
    return Head(request, organization, model, version, state, key)


async def head(*, request: UUID, organization: int) -> Head | None:
    """A request of this organization, in flight or kept; None if there is none."""
    names = ["state", "org", "model", "version", "key"]
    found = cast("list[bytes | None]", await async_state().hmget(f"job:{request}", names))
    state, owner, model, version, key = (each.decode() if each else "" for each in found)
    if owner != str(organization):
        return None
    return Head(request, organization, model, version, state, key)


async def found_in(*, request: UUID) -> tuple[str, str]:
    """What had its answer, if a cache did and it has been said; and what it is found by there."""
    names = ["cache", "answer"]
    found = cast("list[bytes | None]", await async_state().hmget(f"job:{request}", names))
    cache, answer = (each.decode() if each else "" for each in found)
    return cache, answer


async def leave(*, request: UUID, organization: int, leaving: Leaving, grace: float) -> None:
    """A reader left.

    With `Leaving.CANCEL` the request is stopped unless others read it, or one who left with
    `Leaving.LINGER` may still come back within `grace` seconds; with `Leaving.CONTINUE` no reader
    who leaves stops it any more.
    """
    when = "unread" if leaving is Leaving.CANCEL else leaving.value
    await _cancel(request, organization, leaves=1, when=when, grace=grace)


async def cancel_unread(*, request: UUID, organization: int, grace: float) -> float | None:
    """Stop a request that nobody reads, and nobody has read for `grace` seconds; how many of these
    are left, None where there is nothing to wait for."""
    reply = await _cancel(request, organization, leaves=0, when="unread", grace=grace)
    return int(reply[1]) / 1000 if reply[0] == b"later" else None


async def cancel(*, request: UUID, organization: int) -> bool:
    """Stop a request of this organization; False if there is none in flight.

    A waiting one ends at once, a running one within a step of its worker.
    """
    reply = await _cancel(request, organization, leaves=0, when="always")
    return reply[0] in (b"sealed", b"told")


async def _cancel(
    request: UUID, organization: int, *, leaves: int, when: str, grace: float = 0.0
) -> Sequence[Any]:
    arguments: list[Argument] = [str(request), organization, "cancelled", leaves, when]
    reply: Sequence[Any] = await _CANCEL.arun(
        [f"job:{request}", SEALED], [*arguments, int(grace * 1000)]
    )
    return reply


def _models(reply: Sequence[bytes]) -> list[str]:
    return [name.decode() for name in reply]
