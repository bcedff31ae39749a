"""Limits of an organization and of its keys: exact sliding windows of one minute in Redis.

A request counts from its admission for sixty seconds: with the most tokens it may take, and from
its settlement with those it took. Counting happens in one script on one server, by that server's
clock: whatever the number of processes, no window ever holds more than its limit, and nobody below
it is refused. (`concurrent_requests` forgets a request that nobody settles after an hour.)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from kit.errors import Refused
from kit.redis import Argument, Lua
from tenants.auth import Caller

WINDOW_SECONDS = 60

_LUA = Path(__file__).parent / "lua"
_admit = Lua(_LUA / "limits_admit.lua")
_settle = Lua(_LUA / "limits_settle.lua")
_SHOWN = {
    "requests_per_minute": "requests per minute",
    "tokens_per_minute": "tokens per minute",
    "concurrent_requests": "requests at the same time",
}


class LimitReached(Refused):
    """Over a limit of the organization or of the key."""

    status, code = 429, "rate_limit_exceeded"


@dataclass(frozen=True, slots=True)
class Left:
    """What a window of `limit` still takes; after `reset` quiet seconds it takes all again."""

    limit: int
    remaining: int
    reset: float = float(WINDOW_SECONDS)

    def headers(self, of: str) -> dict[str, str]:
        """As OpenAI names them (platform.openai.com/docs/guides/rate-limits)."""
        return {
            f"x-ratelimit-limit-{of}": str(self.limit),
            f"x-ratelimit-remaining-{of}": str(self.remaining),
            f"x-ratelimit-reset-{of}": f"{self.reset:g}s",
        }


@dataclass(frozen=True, slots=True)
class Standing:
    """What is left after an admission, in the tighter of the two scopes; None: no limit."""

    requests: Left | None
    tokens: Left | None

    def headers(self) -> dict[str, str]:
        """`x-ratelimit-*` for the response."""
        requests = self.requests.headers("requests") if self.requests else {}
        return requests | (self.tokens.headers("tokens") if self.tokens else {})


def admit(
    pipe: Any, *, ticket: str, caller: Caller, request: UUID, tokens: int, at_ms: int = 0
) -> None:
    """Queue the admission of `request`, which takes at most `tokens`, and stamp its ticket.

    Counts in both scopes or in none; the same request again changes nothing. `at_ms` is the time
    in Unix milliseconds, 0 for the Redis server's own.
    """
    arguments: list[Argument] = [at_ms, str(request), tokens]
    for limits in (caller.limits, caller.key_limits):
        arguments += [
            limits.requests_per_minute,
            limits.tokens_per_minute,
            limits.concurrent_requests,
        ]
    _admit.add(pipe, [ticket, *_names(caller.organization, caller.key)], arguments)


def admitted(reply: Sequence[Any]) -> Standing:
    """What the reply to `admit` says; raises `LimitReached`, whose `retry_after` is true."""
    if reply[0] == b"limited":
        raise _limit_reached(*reply[1:6], standing=_standing(reply[6:]))
    return _standing(reply[1:])


def settle(pipe: Any, *, organization: int, key: str, request: UUID, tokens: int) -> None:
    """Queue the end of a request that took `tokens`; again changes nothing."""
    _settle.add(pipe, _names(organization, key), [str(request), tokens])


def withdraw(pipe: Any, *, organization: int, key: str, request: UUID) -> None:
    """Queue the undoing of an admission: the request was refused further on, so nothing counts."""
    _settle.add(pipe, _names(organization, key), [str(request), -1])


def _names(organization: int, key: str) -> list[str]:
    owners = (f"organization:{organization}", f"key:{key}")
    return [f"limits:{owner}:{of}" for owner in owners for of in ("log", "tokens", "running")]


def _standing(figures: Sequence[int]) -> Standing:
    requests = [Left(*figures[at : at + 2]) for at in (0, 4)]
    tokens = [Left(*figures[at : at + 2]) for at in (2, 6)]
    return Standing(_tighter(requests), _tighter(tokens))


def _tighter(windows: Iterable[Left]) -> Left | None:
    limited = (left for left in windows if left.limit > 0)
    return min(limited, key=lambda left: left.remaining, default=None)


def _limit_reached(
    scope: bytes, name: bytes, limit: int, wait_ms: int, left: int, *, standing: Standing
) -> LimitReached:
    whose = "your organization" if scope == b"organization" else "this API key"
    what = _SHOWN[name.decode()]
    if wait_ms < 0:
        return LimitReached(
            f"This request alone may take more than the {limit:,} {what} of {whose}; shorten the "
            "prompt or lower max_tokens.",
            headers=standing.headers(),
        )
    seconds = wait_ms / 1000
    return LimitReached(
        f"Rate limit reached for {whose}: {limit:,} {what}, of which {left:,} are left. "
        f"Try again in {seconds:g} s.",
        retry_after=seconds,
        headers=standing.headers(),
    )
