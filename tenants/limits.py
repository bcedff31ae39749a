"""Limits of organizations, people, keys and models: exact sliding windows of one minute in Redis.

A request counts from its admission for sixty seconds: with the most tokens it may take, and from
its settlement with those it took. Counting happens in one script on one server, by that server's
clock: whatever the number of processes, no window ever holds more than its limit, and nobody below
it is refused. (`concurrent_requests` forgets a request that nobody settles after an hour.)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from kit.errors import Refused
from kit.redis import Argument, Lua
from tenants.auth import Caller, Limits

WINDOW_SECONDS = 60
LOST_MS = 3_600_000

_LUA = Path(__file__).parent / "lua"
_admit = Lua(_LUA / "limits_admit.lua")
_settle = Lua(_LUA / "limits_settle.lua")
_SHOWN = {
    "requests_per_minute": "requests per minute",
    "tokens_per_minute": "tokens per minute",
    "concurrent_requests": "requests at the same time",
}
_FIGURES = 4
"""How many of a reply tell of one scope."""


class LimitReached(Refused):
    """Over a limit of the organization, the person, the key or the model."""

    status, code = 429, "rate_limit_exceeded"


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose limits: its place in Redis, how a header and how a message names it, and they."""

    name: str
    policy: str
    whose: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class Left:
    """What a window of `limit` still takes; after `reset` quiet seconds it takes all again.

    `policy` is the scope, as a header names it.
    """

    limit: int
    remaining: int
    reset: float = float(WINDOW_SECONDS)
    policy: str = ""

    def headers(self, of: str) -> dict[str, str]:
        """As OpenAI names them (platform.openai.com/docs/guides/rate-limits)."""
        return {
            f"x-ratelimit-limit-{of}": str(self.limit),
            f"x-ratelimit-remaining-{of}": str(self.remaining),
            f"x-ratelimit-reset-{of}": f"{self.reset:g}s",
        }


@dataclass(frozen=True, slots=True)
class Standing:
    """What is left after an admission, each in its tightest scope; None: no limit."""

    requests: Left | None = None
    tokens: Left | None = None
    concurrent: Left | None = None

    def headers(self) -> dict[str, str]:
        """OpenAI's `x-ratelimit-*`, and `RateLimit` and `RateLimit-Policy` of the IETF.

        The latter by draft-ietf-httpapi-ratelimit-headers-10: q is the quota, w its window and t
        the wait in seconds, qu the unit, r what remains.
        """
        requests = self.requests.headers("requests") if self.requests else {}
        return requests | (self.tokens.headers("tokens") if self.tokens else {}) | self._ietf()

    def _ietf(self) -> dict[str, str]:
        policies, states = [], []
        if self.requests:
            policies.append(_policy(self.requests, "requests"))
            states.append(_state(self.requests, "requests"))
        if self.tokens:
            policies.append(_policy(self.tokens, "tokens", unit="tokens"))
            states.append(_state(self.tokens, "tokens"))
        if self.concurrent:
            name = f'"{self.concurrent.policy}-concurrent"'
            policies.append(f'{name};q={self.concurrent.limit};qu="concurrent-requests"')
            states.append(f"{name};r={self.concurrent.remaining}")
        if not policies:
            return {}
        return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)}


def scopes(caller: Caller, *, model: str = "", alias: str = "") -> tuple[Scope, ...]:
    """All whose limits a request of the caller's to the model is held against; where it was asked
    for by an alias, that name's too."""
    organization, person = caller.organization, caller.person
    every = [
        Scope(f"organization:{organization}", "organization", "your organization", caller.limits),
        Scope(f"key:{caller.key}", "key", "this API key", caller.key_limits),
    ]
    for name in (model, alias) if alias else (model,):
        bounds = caller.model_limits.get(name, Limits())
        whose = f"your organization on {name}"
        every.append(Scope(f"model:{organization}:{name}", "model", whose, bounds))
    if person is not None:
        name = f"person:{organization}:{person}"
        every.append(Scope(name, "user", "you", caller.person_limits))
    return tuple(scope for scope in every if scope.limits != Limits())


def admit(
    pipe: Any,
    *,
    ticket: str,
    scopes: Sequence[Scope],
    request: UUID,
    tokens: int,
    at_ms: int = 0,
    lost_ms: int = LOST_MS,
) -> None:
    """Queue the admission of `request`, which takes at most `tokens`, and stamp its ticket.

    Counts in all scopes or in none; the same request again changes nothing. `at_ms` is the time
    in Unix milliseconds, 0 for the Redis server's own. Who has not settled in `lost_ms` is taken
    for lost, and runs no more.
    """
    arguments: list[Argument] = [at_ms, str(request), tokens]
    for scope in scopes:
        arguments += [
            scope.limits.requests_per_minute,
            scope.limits.tokens_per_minute,
            scope.limits.concurrent_requests,
        ]
    arguments.append(lost_ms)
    _admit.add(pipe, [ticket, *_names(scope.name for scope in scopes)], arguments)


def admitted(reply: Sequence[Any], scopes: Sequence[Scope]) -> Standing:
    """What the reply to `admit` says; raises `LimitReached`, whose `retry_after` is true."""
    if reply[0] == b"limited":
        place, name, wait_ms, left = reply[1:5]
        standing = _standing(reply[5:], scopes)
        raise _limit_reached(scopes[place], name.decode(), wait_ms, left, standing=standing)
    return _standing(reply[1:], scopes)


def settle(
    pipe: Any, *, counted: Sequence[str], request: UUID, tokens: int, unless: str | None = None
) -> None:
    """Queue the end of a request that took `tokens`; again changes nothing.

    `counted` are the names of the scopes it was admitted in. Nothing is done where the key `unless`
    exists in Redis then.
    """
    if counted:
        keys = [*_names(counted), *([unless] if unless else [])]
        _settle.add(pipe, keys, [str(request), tokens])


def withdraw(
    pipe: Any, *, counted: Sequence[str], request: UUID, unless: str | None = None
) -> None:
    """Queue the undoing of an admission: the request was refused further on, so nothing counts.
    `unless`: see `settle`."""
    settle(pipe, counted=counted, request=request, tokens=-1, unless=unless)


def _names(scopes: Iterable[str]) -> list[str]:
    return [f"limits:{scope}:{of}" for scope in scopes for of in ("log", "tokens", "running")]


def _standing(figures: Sequence[int], scopes: Sequence[Scope]) -> Standing:
    windows: Mapping[str, list[Left]] = {"requests": [], "tokens": [], "concurrent": []}
    for place, scope in enumerate(scopes):
        at = place * _FIGURES
        requests, tokens, beside, reset_ms = figures[at : at + _FIGURES]
        reset, of, policy = reset_ms / 1000, scope.limits, scope.policy
        windows["requests"].append(Left(of.requests_per_minute, requests, reset, policy))
        windows["tokens"].append(Left(of.tokens_per_minute, tokens, reset, policy))
        windows["concurrent"].append(Left(of.concurrent_requests, beside, 0, policy))
    return Standing(**{name: _tightest(lefts) for name, lefts in windows.items()})


def _tightest(windows: Iterable[Left]) -> Left | None:
    limited = (left for left in windows if left.limit > 0)
    return min(limited, key=lambda left: left.remaining, default=None)


def _policy(left: Left, of: str, *, unit: str = "") -> str:
    quota = f'"{left.policy}-{of}";q={left.limit};w={WINDOW_SECONDS}'
    return f'{quota};qu="{unit}"' if unit else quota


def _state(left: Left, of: str) -> str:
    return f'"{left.policy}-{of}";r={left.remaining};t={-int(-left.reset // 1)}'


def _limit_reached(
    scope: Scope, name: str, wait_ms: int, left: int, *, standing: Standing
) -> LimitReached:
    what, limit = _SHOWN[name], getattr(scope.limits, name)
    if wait_ms < 0:
        return LimitReached(
            f"This request alone may take more than the {limit:,} {what} of {scope.whose}; shorten "
            "the prompt or lower max_tokens.",
            headers=standing.headers(),
        )
    seconds = wait_ms / 1000
    return LimitReached(
        f"Rate limit reached for {scope.whose}: {limit:,} {what}, of which {left:,} are left. "
        f"Try again in {seconds:g} s.",
        retry_after=seconds,
        headers=standing.headers(),
    )
