import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import django
import http_sf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from kit.ids import request_id
from kit.redis import pipeline, state
from tenants import limits
from tenants.auth import Caller, Limits
from tenants.limits import LimitReached, Standing
from tests import factories

MINUTE = 60_000
START = 1_900_000_000_000


def admit(
    caller: Caller,
    *,
    tokens: int = 1,
    request: UUID | None = None,
    at_ms: int = 0,
    model: str = "",
) -> Standing:
    chosen = request or request_id(datetime.now(UTC))
    reply = reply_to_admit(caller, chosen, tokens, at_ms, model)
    return limits.admitted(reply, limits.scopes(caller, model=model))


def reply_to_admit(
    caller: Caller, request: UUID, tokens: int, at_ms: int, model: str = ""
) -> list[Any]:
    def build(pipe: Any) -> None:
        limits.admit(
            pipe,
            ticket=f"ticket:{request}",
            scopes=limits.scopes(caller, model=model),
            request=request,
            tokens=tokens,
            at_ms=at_ms,
        )

    reply: list[Any] = pipeline(build)[0]
    return reply


def counted(caller: Caller) -> list[str]:
    return [scope.name for scope in limits.scopes(caller)]


def settle(caller: Caller, request: UUID, tokens: int) -> None:
    names = counted(caller)
    pipeline(lambda pipe: limits.settle(pipe, counted=names, request=request, tokens=tokens))


def withdraw(caller: Caller, request: UUID) -> None:
    names = counted(caller)
    pipeline(lambda pipe: limits.withdraw(pipe, counted=names, request=request))


# A plain model of one scope, against which the scripts are held


@dataclass
class Scope:
    limits: Limits
    log: dict[UUID, tuple[int, int]] = field(default_factory=dict)
    running: set[UUID] = field(default_factory=set)

    def window(self, now: int) -> list[tuple[int, int]]:
        return [(at, size) for at, size in self.log.values() if at > now - MINUTE]

    def fits(self, now: int, wanted: int) -> bool:
        window = self.window(now)
        rpm, tpm = self.limits.requests_per_minute, self.limits.tokens_per_minute
        return (not rpm or len(window) < rpm) and (
            not tpm or sum(size for _, size in window) + wanted <= tpm
        )

    def is_full(self) -> bool:
        at_once = self.limits.concurrent_requests
        return bool(at_once) and len(self.running) >= at_once

    def count(self, request: UUID, now: int, wanted: int) -> None:
        if self.limits.requests_per_minute or self.limits.tokens_per_minute:
            self.log[request] = (now, wanted)
        if self.limits.concurrent_requests:
            self.running.add(request)

    def knows(self, request: UUID, now: int) -> bool:
        at, _ = self.log.get(request, (now - MINUTE, 0))
        return at > now - MINUTE or request in self.running

    def left(self, now: int) -> tuple[int, int, int, int]:
        window = self.window(now)
        return (
            max(0, self.limits.requests_per_minute - len(window)),
            max(0, self.limits.tokens_per_minute - sum(size for _, size in window)),
            max(0, self.limits.concurrent_requests - len(self.running)),
            max((at for at, _ in window), default=now - MINUTE) + MINUTE - now,
        )


class Model:
    def __init__(self, organization: Limits, by_key: dict[str, Limits]) -> None:
        self.organization = Scope(organization)
        self.keys = {key: Scope(of) for key, of in by_key.items()}

    def scopes(self, key: str) -> list[Scope]:
        return [self.organization, self.keys[key]]

    def admit(self, key: str, request: UUID, now: int, wanted: int) -> int | None:
        """None: admitted; otherwise ms to wait, -1 for ever."""
        scopes = self.scopes(key)
        if any(scope.knows(request, now) for scope in scopes):
            return None
        if any(0 < scope.limits.tokens_per_minute < wanted for scope in scopes):
            return -1
        waits = [1000 for scope in scopes if scope.is_full()]
        waits += [self._wait(scope, now, wanted) for scope in scopes]
        if any(waits):
            return max(waits)
        for scope in scopes:
            scope.count(request, now, wanted)
        return None

    @staticmethod
    def _wait(scope: Scope, now: int, wanted: int) -> int:
        times = [now, *sorted(at + MINUTE for at, _ in scope.window(now))]
        return next(time for time in times if scope.fits(time, wanted)) - now

    def settle(self, key: str, request: UUID, tokens: int) -> None:
        for scope in self.scopes(key):
            scope.running.discard(request)
            if request in scope.log:
                scope.log[request] = (scope.log[request][0], tokens)

    def withdraw(self, key: str, request: UUID) -> None:
        for scope in self.scopes(key):
            scope.running.discard(request)
            scope.log.pop(request, None)


small = st.integers(0, 4)
bounds = st.builds(Limits, small, st.sampled_from([0, 1, 10, 25]), small)
admissions = st.tuples(
    st.just("admit"),
    st.sampled_from(["key-a", "key-b"]),
    st.sampled_from([0, 1, 999, 20_000, 59_999, 60_000, 60_001]),
    st.integers(0, 12),
)
later = st.tuples(
    st.sampled_from(["again", "settle", "withdraw"]), st.integers(0, 30), st.integers(0, 12)
)


@settings(max_examples=150, deadline=None)
@given(bounds, bounds, bounds, st.lists(admissions | later, max_size=40))
def test_the_scripts_decide_as_a_plain_model_does(
    organization: Limits, key_a: Limits, key_b: Limits, steps: list[tuple[Any, ...]]
) -> None:
    state().flushdb()
    by_key = {"key-a": key_a, "key-b": key_b}
    callers = {
        key: factories.caller(key=key, limits=organization, key_limits=of)
        for key, of in by_key.items()
    }
    model, now, made = Model(organization, by_key), START, list[tuple[str, UUID, int]]()

    def ask(key: str, request: UUID, tokens: int) -> None:
        wait = model.admit(key, request, now, tokens)
        reply = reply_to_admit(callers[key], request, tokens, now)
        if wait is not None:
            assert (reply[0], reply[3]) == (b"limited", wait)
            return
        assert reply[0] == b"ok"
        bounded = [scope for scope in model.scopes(key) if scope.limits != Limits()]
        assert reply[1:] == [each for scope in bounded for each in scope.left(now)]

    for step in steps:
        match step:
            case "admit", key, pause, tokens:
                now += pause
                made.append((key, uuid4(), tokens))
                ask(*made[-1])
            case what, index, tokens if made:
                key, request, wanted = made[index % len(made)]
                if what == "again":
                    ask(key, request, wanted)
                elif what == "settle":
                    model.settle(key, request, tokens)
                    settle(callers[key], request, tokens)
                else:
                    model.withdraw(key, request)
                    withdraw(callers[key], request)


def test_a_refusal_says_when_a_retry_succeeds_to_the_millisecond(redis: Redis) -> None:
    caller = factories.caller(limits=Limits(requests_per_minute=2))
    admit(caller, at_ms=START)
    admit(caller, at_ms=START + 10_000)
    with pytest.raises(LimitReached) as refusal:
        admit(caller, at_ms=START + 10_500)
    assert refusal.value.retry_after == 49.5
    with pytest.raises(LimitReached):
        admit(caller, at_ms=START + 59_999)
    admit(caller, at_ms=START + 60_000)


def test_a_long_walk_through_the_window_stays_true(redis: Redis) -> None:
    caller = factories.caller(limits=Limits(tokens_per_minute=1500))
    for at in range(1500):
        admit(caller, at_ms=START + at)
    for wanted, wait in ((1, 60_000 - 1499), (1000, 60_000 - 500), (1400, 60_000)):
        with pytest.raises(LimitReached) as refusal:
            admit(caller, tokens=wanted, at_ms=START + 1499)
        assert refusal.value.retry_after == wait / 1000


def test_a_request_larger_than_the_limit_is_told_not_to_retry(redis: Redis) -> None:
    caller = factories.caller(key_limits=Limits(tokens_per_minute=100))
    with pytest.raises(LimitReached, match="this API key; shorten the prompt") as refusal:
        admit(caller, tokens=101)
    assert refusal.value.retry_after is None


def test_a_refusal_names_scope_limit_and_wait(redis: Redis) -> None:
    caller = factories.caller(limits=Limits(requests_per_minute=1))
    admit(caller, at_ms=START)
    with pytest.raises(LimitReached) as refusal:
        admit(caller, at_ms=START)
    assert refusal.value.message == (
        "Rate limit reached for your organization: 1 requests per minute, of which 0 are left. "
        "Try again in 60 s."
    )


def test_a_refusal_says_in_headers_where_the_caller_stands(redis: Redis) -> None:
    caller = factories.caller(
        limits=Limits(requests_per_minute=2, tokens_per_minute=1000),
        key_limits=Limits(requests_per_minute=1),
    )
    admit(caller, tokens=10, at_ms=START)
    with pytest.raises(LimitReached) as refusal:
        admit(caller, tokens=10, at_ms=START)
    assert refusal.value.headers == {
        "x-ratelimit-limit-requests": "1",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "60s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "990",
        "x-ratelimit-reset-tokens": "60s",
        "RateLimit-Policy": '"key-requests";q=1;w=60, '
        '"organization-tokens";q=1000;w=60;qu="tokens"',
        "RateLimit": '"key-requests";r=0;t=60, "organization-tokens";r=990;t=60',
    }
    with pytest.raises(LimitReached) as never:
        admit(caller, tokens=1001, at_ms=START + 60_000)
    assert never.value.headers["x-ratelimit-remaining-tokens"] == "1000"


def test_a_refused_request_counts_nowhere(redis: Redis) -> None:
    tight = Limits(requests_per_minute=1)
    wide = Limits(requests_per_minute=10)
    caller = factories.caller(limits=wide, key_limits=tight)
    admit(caller)
    with pytest.raises(LimitReached, match="this API key"):
        admit(caller)
    other = factories.caller(key="another00000", limits=wide)
    assert admit(other).requests == limits.Left(10, 8, 60, "organization")


def test_settled_tokens_replace_the_reserved(redis: Redis) -> None:
    caller = factories.caller(limits=Limits(tokens_per_minute=100))
    request = uuid4()
    admit(caller, tokens=90, request=request)
    for _ in range(2):
        settle(caller, request, 10)
    assert admit(caller, tokens=50).tokens == limits.Left(100, 40, 60, "organization")


def test_a_request_frees_its_place_when_it_is_settled(redis: Redis) -> None:
    caller = factories.caller(key_limits=Limits(concurrent_requests=1))
    request = uuid4()
    admit(caller, request=request)
    with pytest.raises(LimitReached, match="at the same time") as refusal:
        admit(caller)
    assert refusal.value.retry_after == 1
    settle(caller, request, 1)
    admit(caller)


def test_a_request_that_nobody_settles_is_forgotten_after_an_hour(redis: Redis) -> None:
    caller = factories.caller(key_limits=Limits(concurrent_requests=1))
    admit(caller, at_ms=START)
    with pytest.raises(LimitReached):
        admit(caller, at_ms=START + 60 * MINUTE - 1)
    admit(caller, at_ms=START + 60 * MINUTE)


def test_the_ticket_is_stamped_only_on_admission(redis: Redis) -> None:
    caller = factories.caller(limits=Limits(requests_per_minute=1))
    first, second = uuid4(), uuid4()
    admit(caller, request=first)
    with pytest.raises(LimitReached):
        admit(caller, request=second)
    assert redis.get(f"ticket:{first}") == b"limits"
    assert 0 < redis.pttl(f"ticket:{first}") <= 10_000
    assert redis.get(f"ticket:{second}") is None


def test_a_window_leaves_nothing_behind(redis: Redis) -> None:
    caller = factories.caller(limits=Limits(1, 1, 1), key_limits=Limits(1, 1, 1))
    admit(caller)
    assert all(redis.ttl(name) > 0 for name in redis.keys("limits:*"))


def test_a_caller_without_limits_leaves_no_trace(redis: Redis) -> None:
    assert admit(factories.caller()) == Standing()
    assert redis.keys("limits:*") == []


def test_headers_tell_the_tighter_scope_as_openai_does(redis: Redis) -> None:
    caller = factories.caller(limits=Limits(50, 1000), key_limits=Limits(60, 500))
    assert admit(caller, tokens=100).headers() == {
        "x-ratelimit-limit-requests": "50",
        "x-ratelimit-remaining-requests": "49",
        "x-ratelimit-reset-requests": "60s",
        "x-ratelimit-limit-tokens": "500",
        "x-ratelimit-remaining-tokens": "400",
        "x-ratelimit-reset-tokens": "60s",
        "RateLimit-Policy": '"organization-requests";q=50;w=60, '
        '"key-tokens";q=500;w=60;qu="tokens"',
        "RateLimit": '"organization-requests";r=49;t=60, "key-tokens";r=400;t=60',
    }


def test_the_ietfs_headers_parse_and_tell_of_requests_at_once(redis: Redis) -> None:
    caller = factories.caller(key_limits=Limits(concurrent_requests=3))
    said = admit(caller).headers()
    assert said == {
        "RateLimit-Policy": '"key-concurrent";q=3;qu="concurrent-requests"',
        "RateLimit": '"key-concurrent";r=2',
    }
    for value in said.values():
        assert http_sf.parse(value.encode(), tltype="list")


def test_a_person_is_limited_over_all_their_keys(redis: Redis) -> None:
    ours: dict[str, Any] = {"person": 7, "person_limits": Limits(requests_per_minute=2)}
    admit(factories.caller(key="u:7", **ours))
    admit(factories.caller(key="key-a", **ours))
    with pytest.raises(LimitReached, match="Rate limit reached for you: 2 requests"):
        admit(factories.caller(key="key-b", **ours))
    admit(factories.caller(key="key-b", person=8, person_limits=Limits(2)))
    admit(factories.caller(key="key-b", organization=2, **ours))


def test_a_model_is_limited_for_the_whole_organization(redis: Redis) -> None:
    bounds = {"model_limits": {"large": Limits(requests_per_minute=1)}}
    admit(factories.caller(**bounds), model="large")
    with pytest.raises(LimitReached, match="your organization on large: 1 requests"):
        admit(factories.caller(key="another00000", **bounds), model="large")
    admit(factories.caller(**bounds), model="small")
    admit(factories.caller(organization=2, **bounds), model="large")


def test_a_request_counts_in_every_scope_or_in_none(redis: Redis) -> None:
    caller = factories.caller(
        limits=Limits(9),
        key_limits=Limits(9),
        person=7,
        person_limits=Limits(9),
        model_limits={"m": Limits(1)},
    )
    admit(caller, model="m")
    with pytest.raises(LimitReached):
        admit(caller, model="m")
    scopes = ("organization:1", "key:key000000000", "model:1:m", "person:1:7")
    assert [redis.zcard(f"limits:{scope}:log") for scope in scopes] == [1, 1, 1, 1]


# Many processes on one key

PROCESSES = 8


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=spawn, initializer=django.setup) as pool:
        yield pool


def _admissions(caller: Caller, attempts: int) -> int:
    admitted = 0
    for _ in range(attempts):
        try:
            admit(caller)
        except LimitReached:
            continue
        admitted += 1
    return admitted


def _most_at_once(caller: Caller, rounds: int) -> tuple[int, int]:
    """The most that ran while one of ours did, and how often we were refused."""
    most = refused = 0
    for _ in range(rounds):
        request = uuid4()
        try:
            admit(caller, request=request)
        except LimitReached:
            refused += 1
            continue
        most = max(most, state().incr("running"))
        time.sleep(0.001)
        state().decr("running")
        settle(caller, request, 1)
    return most, refused


@pytest.mark.parametrize(
    "bounds",
    [
        {"limits": Limits(requests_per_minute=100)},
        {"key_limits": Limits(requests_per_minute=100)},
        {"key_limits": Limits(tokens_per_minute=100)},
        {"person": 7, "person_limits": Limits(requests_per_minute=100)},
        {"limits": Limits(110), "key_limits": Limits(120), "model_limits": {"": Limits(100)}},
    ],
    ids=["organization", "key", "tokens", "person", "tightest of three"],
)
def test_many_processes_admit_exactly_the_limit(
    redis: Redis, processes: ProcessPoolExecutor, bounds: dict[str, Any]
) -> None:
    caller = factories.caller(**bounds)
    runs = [processes.submit(_admissions, caller, 40) for _ in range(PROCESSES)]
    assert sum(run.result() for run in runs) == 100


def test_many_processes_never_run_more_at_once_than_allowed(
    redis: Redis, processes: ProcessPoolExecutor
) -> None:
    caller = factories.caller(limits=Limits(concurrent_requests=3))
    runs = [processes.submit(_most_at_once, caller, 60) for _ in range(PROCESSES)]
    results = [run.result() for run in runs]
    assert max(most for most, _ in results) <= 3
    assert sum(refused for _, refused in results) > 0


def test_many_processes_within_the_limit_are_never_refused(
    redis: Redis, processes: ProcessPoolExecutor
) -> None:
    caller = factories.caller(limits=Limits(PROCESSES * 30, PROCESSES * 30, PROCESSES))
    runs = [processes.submit(_most_at_once, caller, 30) for _ in range(PROCESSES)]
    assert sum(refused for _, refused in (run.result() for run in runs)) == 0
