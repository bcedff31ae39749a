"""The scripts that move a request: who is next, who holds it, and what may be written."""

from dataclasses import replace
from typing import Any, cast
from uuid import UUID

import orjson
import pytest
from asgiref.sync import async_to_sync
from hypothesis import HealthCheck, given
from hypothesis import settings as bounds
from hypothesis import strategies as st
from redis import Redis

from inference import jobs, line, stream
from inference.engine import (
    Delta,
    FinishReason,
    Grammar,
    GrammarKind,
    Logprob,
    Outcome,
    Sampling,
)
from inference.jobs import Claim, Job
from inference.line import AlreadyIn, BooksBehind, QueueFull
from kit.redis import pipeline, state
from tests.inference.parts import ECHO, RING, append, emitted, fields, job, submit


def claim(worker: str = "w") -> Claim | None:
    return jobs.claim(model=ECHO, worker=worker)


def delta(of: Job, position: int, *tokens: int, reason: FinishReason | None = None) -> Delta:
    outcome = None
    if reason is not None:
        outcome = Outcome(
            reason=reason,
            prompt_tokens=len(of.prompt),
            cached_tokens=0,
            completion_tokens=position + len(tokens),
        )
    return Delta(
        id=str(of.id), position=position, tokens=tokens, text="x" * len(tokens), outcome=outcome
    )


def expire_leases() -> None:
    for rid in cast("list[bytes]", state().zrange(jobs.LEASES, 0, -1)):
        state().zadd(jobs.LEASES, {rid: 0})


def test_a_job_survives_its_way_through_redis(redis: Redis) -> None:
    sent = job(sampling=Sampling(max_tokens=3, temperature=0.5, seed=2**62, stop=("a", "b")))
    submit(sent)
    found = claim()
    assert found is not None
    assert found.job.unsealed(RING) == replace(sent, prompt_tokens=2)
    assert found.job.prompt == ()


def test_the_same_request_submitted_twice_stands_in_line_once(redis: Redis) -> None:
    one = job()
    submit(one)
    with pytest.raises(AlreadyIn):
        submit(one)
    assert claim() is not None
    assert claim() is None


def test_a_full_line_refuses_and_says_when_to_come_back(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "MOST_WAITING", 1)
    submit(job())
    with pytest.raises(QueueFull) as refusal:
        submit(job())
    assert refusal.value.retry_after is not None


def paced(most: int, ms: int = 1000) -> None:
    state().hset(f"queue:{ECHO}:pace", mapping={"most": most, "ms": ms})


def test_a_full_line_says_when_there_will_be_room_at_its_pace(redis: Redis) -> None:
    paced(2, ms=3000)
    submit(job(), job())
    with pytest.raises(QueueFull) as refusal:
        submit(job())
    assert refusal.value.retry_after == 3


def test_a_full_line_gives_way_to_an_organization_that_has_less_in_it(redis: Redis) -> None:
    paced(3)
    greedy = [job(organization=1) for _ in range(3)]
    modest = job(organization=2)
    submit(*greedy, modest)
    assert [fields(each.id)["state"] for each in (*greedy, modest)] == [
        "sealed", "waiting", "waiting", "waiting",
    ]  # fmt: skip
    assert fields(greedy[0].id)["reason"] == "shed"
    second = job(organization=2)
    with pytest.raises(QueueFull):
        submit(second)


def test_a_full_line_gives_way_to_who_is_more_urgent(redis: Redis) -> None:
    paced(1)
    patient, urgent = job(priority=2), job(priority=0)
    submit(patient, urgent)
    assert fields(patient.id)["reason"] == "shed"
    found = claim()
    assert found is not None
    assert found.job.id == urgent.id
    assert claim() is None


def test_in_a_full_line_whoever_has_waited_too_long_goes_first(redis: Redis, settings: Any) -> None:
    paced(2)
    old, young, new = job(), job(), job()
    submit(old, young)
    redis.zincrby(f"queue:{ECHO}", -settings.QUEUE_SECONDS * 2000 - 1000, str(old.id))
    submit(new)
    assert [fields(each.id)["state"] for each in (old, young, new)] == [
        "sealed", "waiting", "waiting",
    ]  # fmt: skip


def test_nobody_is_late_who_has_not_waited_for_most_of_an_answers_time(
    redis: Redis, settings: Any
) -> None:
    paced(1)
    run_ms = settings.QUEUE_SECONDS * 2000 + 60_000
    state().hset(f"queue:{ECHO}:pace", "run_ms", run_ms)
    old = job()
    submit(old)
    redis.zincrby(f"queue:{ECHO}", 1000 - run_ms * 3 // 4, str(old.id))
    with pytest.raises(QueueFull):
        submit(job())
    redis.zincrby(f"queue:{ECHO}", -2000, str(old.id))
    submit(job())
    assert fields(old.id)["state"] == "sealed"


def test_nothing_is_let_in_while_the_books_are_too_far_behind(redis: Redis, settings: Any) -> None:
    redis.zadd(jobs.SEALED, {"one": int(redis.time()[0]) * 1000})
    submit(job())
    redis.zadd(jobs.SEALED, {"one": (int(redis.time()[0]) - 301) * 1000})
    with pytest.raises(BooksBehind) as refusal:
        submit(job())
    assert refusal.value.retry_after is not None


def test_who_waits_for_a_model_that_nobody_serves_is_turned_away(redis: Redis) -> None:
    read, unread, new = job(), job(), job()
    submit(read, new)
    submit(unread, web="")
    for each in (read, unread):
        redis.zincrby(f"queue:{ECHO}", -5000, str(each.id))
    assert jobs.turn_away(ECHO, after_ms=4000, unread_after_ms=60_000) == 1
    assert [fields(each.id)["state"] for each in (read, unread, new)] == [
        "sealed", "waiting", "waiting",
    ]  # fmt: skip
    assert fields(read.id)["reason"] == "unserved"


def test_nothing_is_delivered_after_a_cancellation_was_told(redis: Redis) -> None:
    one = job()
    submit(one)
    claim()
    append([(one.id, 1, delta(one, 0, 5))])
    async_to_sync(jobs.cancel)(request=one.id, organization=1)
    assert append([(one.id, 1, delta(one, 1, 6))]) == ["cancelled"]
    assert append([(one.id, 1, delta(one, 2, 7, reason=FinishReason.stop))]) == ["cancelled"]
    assert emitted(one.id) == (5,)
    assert (fields(one.id)["reason"], fields(one.id)["position"]) == ("cancelled", "1")


def test_the_first_priority_goes_first_then_the_least_served(redis: Redis) -> None:
    greedy = [job(organization=1) for _ in range(3)]
    modest, urgent = job(organization=2), job(organization=3, priority=0)
    submit(*greedy, modest, urgent)
    order = [found.job.id for _ in range(5) if (found := claim()) is not None]
    assert order == [each.id for each in (urgent, greedy[0], modest, greedy[1], greedy[2])]


def test_who_comes_back_after_a_pause_has_no_old_credit(redis: Redis) -> None:
    for _ in range(4):
        submit(job(organization=1))
        claim()
    late = [job(organization=2) for _ in range(3)]
    busy = [job(organization=1) for _ in range(3)]
    submit(*busy, *late)
    order = [found.job.organization for _ in range(4) if (found := claim()) is not None]
    assert order == [2, 1, 2, 1]


def test_unused_tokens_are_given_back_to_the_organizations_turn(redis: Redis) -> None:
    short = job(organization=1, sampling=Sampling(max_tokens=1000))
    submit(short)
    claim()
    append([(short.id, 1, delta(short, 0, 7, reason=FinishReason.stop))])
    assert int(state().hget(f"queue:{ECHO}:served", "1") or 0) == len(short.prompt) + 1


def test_a_dead_workers_request_goes_to_the_next_with_a_new_fence(redis: Redis) -> None:
    one = job()
    submit(one)
    claim("dead")
    append([(one.id, 1, delta(one, 0, 5, 6))])
    expire_leases()
    assert jobs.requeue_expired() == [ECHO]
    second = claim("alive")
    assert second is not None
    assert (second.attempt, second.position) == (2, 2)
    assert emitted(one.id) == (5, 6)
    assert append([(one.id, 1, delta(one, 2, 9))]) == ["lost"]
    assert append([(one.id, 2, delta(one, 2, 7))]) == ["ok"]
    assert emitted(one.id) == (5, 6, 7)


def test_a_request_that_kills_its_workers_fails_in_the_end(redis: Redis) -> None:
    one = job()
    submit(one)
    for _ in range(jobs.MOST_CRASHES):
        assert claim() is not None
        expire_leases()
        jobs.requeue_expired()
    assert claim() is None
    assert fields(one.id)["reason"] == "failed"
    assert fields(one.id)["state"] == "sealed"


def test_workers_that_die_after_its_next_token_do_not_make_a_request_suspect(
    redis: Redis,
) -> None:
    one = job()
    submit(one)
    for position in range(jobs.MOST_CRASHES + 1):
        found = claim()
        assert found is not None
        assert append([(one.id, found.attempt, delta(one, position, 7))]) == ["ok"]
        expire_leases()
        assert jobs.requeue_expired() == [ECHO]
    assert fields(one.id)["state"] == "waiting"


def test_there_is_an_end_of_attempts_for_them_too(redis: Redis) -> None:
    one = job()
    submit(one)
    redis.hset(f"job:{one.id}", "attempt", jobs.MOST_ATTEMPTS - 1)
    found = claim()
    assert found is not None
    append([(one.id, found.attempt, delta(one, 0, 7))])
    expire_leases()
    jobs.requeue_expired()
    assert fields(one.id)["reason"] == "failed"


def test_a_dead_process_keeps_its_requests_no_longer_than_two_seconds(redis: Redis) -> None:
    one, other = job(), job()
    submit(one, other)
    with redis.pubsub() as channel:  # type: ignore[no-untyped-call]
        channel.subscribe("worker:alive")
        channel.get_message(timeout=5)
        claim("alive")
        claim("dead")
        for rid in (one.id, other.id):
            redis.zincrby(jobs.LEASES, -jobs.SILENT_MS, str(rid))
        assert jobs.requeue_expired() == [ECHO]
    assert (fields(one.id)["state"], fields(other.id)["state"]) == ("running", "waiting")


def test_handing_over_is_no_crash(redis: Redis) -> None:
    one = job()
    submit(one)
    for _ in range(jobs.MOST_CRASHES + 2):
        found = claim()
        assert found is not None
        assert jobs.give_back([(one.id, found.attempt)]) == [ECHO]
    assert fields(one.id)["state"] == "waiting"


def test_a_step_sent_twice_is_written_once(redis: Redis) -> None:
    one = job()
    submit(one)
    claim()
    step = [(one.id, 1, delta(one, 0, 5, 6, reason=FinishReason.stop))]
    assert append(step) == ["ok"]
    assert append(step) == ["ok"]
    assert emitted(one.id) == (5, 6)


def test_nothing_is_written_after_the_seal_nor_past_a_gap(redis: Redis) -> None:
    one, other = job(), job()
    submit(one, other)
    claim()
    claim()
    append([(one.id, 1, delta(one, 0, 5, reason=FinishReason.stop))])
    replies = append([(one.id, 1, delta(one, 1, 6)), (other.id, 1, delta(other, 3, 6))])
    assert replies == ["lost", "lost"]
    assert emitted(one.id) == (5,)
    assert emitted(other.id) == ()


def test_a_step_is_told_once_to_each_web_process_concerned(redis: Redis) -> None:
    here, there, lost = job(), job(), job()
    submit(here, lost, web="a")
    submit(there, web="b")
    for _ in range(3):
        claim()
    with state().pubsub() as channel:  # type: ignore[no-untyped-call]
        channel.subscribe("web:a", "web:b")
        for _ in range(2):
            channel.get_message(timeout=5)
        append(
            [
                (here.id, 1, delta(here, 0, 5)),
                (there.id, 1, delta(there, 0, 6)),
                (lost.id, 9, delta(lost, 0, 7)),
            ]
        )
        told = [channel.get_message(timeout=5) for _ in range(2)]
        assert channel.get_message(timeout=0.05) is None
    lines = sorted(message["data"] for message in told if message)
    assert [line.split(b" ")[0].decode() for line in lines] == sorted([str(here.id), str(there.id)])


async def test_a_waiting_request_is_sealed_when_cancelled_and_a_running_one_flagged(
    redis: Redis,
) -> None:
    waiting, running = job(), job()
    submit(running)
    claim()
    submit(waiting)
    for each in (waiting, running):
        assert await jobs.cancel(request=each.id, organization=1)
    assert fields(waiting.id)["state"] == "sealed"
    assert claim() is None
    assert append([(running.id, 1, delta(running, 0, 5))]) == ["cancelled"]
    assert jobs.renew([(running.id, 1, True)]) == ["cancelled"]


async def test_nobody_cancels_anothers_request(redis: Redis) -> None:
    one = job(organization=1)
    submit(one)
    assert not await jobs.cancel(request=one.id, organization=2)
    assert claim() is not None


def test_a_stream_ends_once(redis: Redis) -> None:
    one = job()
    submit(one)
    claim()
    append([(one.id, 1, delta(one, 0, 5, reason=FinishReason.stop))])
    ended = stream.Ended("", "stop", 2, 0, 1, 4000, "EUR", "")
    for _ in range(2):
        pipeline(lambda pipe: stream.end(pipe, request=one.id, event=ended))
    events = stream.read(1, one.id)
    assert [isinstance(each, stream.Ended) for each in events] == [False, True]
    assert 0 < state().ttl(f"stream:{one.id}") <= jobs.KEPT_SECONDS
    assert "spec" not in fields(one.id)


class Workers:
    """Workers that die, repeat themselves and come back late, over one request.

    Token n is the number n, so the stream shows gaps and repeats.
    """

    def __init__(self, one: Job) -> None:
        self.one = one
        self.held: Claim | None = None
        self.position = 0
        self.sent: list[tuple[UUID, int, Delta]] = []

    def claim(self) -> None:
        found = claim()
        if found is not None:
            self.held, self.position = found, found.position

    def step(self) -> None:
        self._send(None)

    def seal(self) -> None:
        self._send(FinishReason.stop)

    def repeat(self) -> None:
        """Everything ever sent, by workers long dead too."""
        for each in self.sent:
            append([each])

    def expire(self) -> None:
        expire_leases()
        jobs.requeue_expired()

    def give_back(self) -> None:
        if self.held is not None:
            jobs.give_back([(self.one.id, self.held.attempt)])

    def _send(self, reason: FinishReason | None) -> None:
        if self.held is not None:
            step = delta(self.one, self.position, self.position, self.position + 1, reason=reason)
            self.sent.append((self.one.id, self.held.attempt, step))
            self.position += 2
            if append(self.sent[-1:]) == ["lost"]:
                self.held = None


@bounds(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moves=st.lists(
        st.sampled_from(["claim", "step", "seal", "repeat", "expire", "give_back"]), max_size=40
    )
)
def test_whatever_happens_a_stream_has_each_token_once_in_order(
    redis: Redis, moves: list[str]
) -> None:
    redis.flushdb()
    one = job(sampling=Sampling(max_tokens=1000))
    submit(one)
    workers = Workers(one)
    for move in moves:
        getattr(workers, move)()
    tokens = emitted(one.id)
    assert tokens == tuple(range(len(tokens)))
    assert int(fields(one.id)["position"]) == len(tokens)
    places = [
        redis.zscore(place, str(one.id)) is not None
        for place in (f"queue:{ECHO}", jobs.LEASES, jobs.SEALED)
    ]
    assert places.count(True) == 1


def test_a_job_comes_back_as_it_was_stored_and_an_older_ones_sampling_too() -> None:
    sampling = Sampling(
        8,
        stop=("a",),
        logit_bias=((3, 1.5),),
        stop_token_ids=(7,),
        logprobs=2,
        grammar=Grammar(GrammarKind.regex, "a+"),
    )
    stored = job(sampling=sampling)
    sealed = stored.seal(RING)
    assert Job.load(stored.dump(), sealed).unsealed(RING) == replace(stored, prompt_tokens=2)
    older = orjson.loads(stored.dump())
    older["sampling"] = {"max_tokens": 8, "temperature": 0.5, "stop": ["a"], "newer": 1}
    assert Job.load(orjson.dumps(older)).sampling == Sampling(8, 0.5, stop=("a",))


def test_log_probabilities_stand_in_the_stream(redis: Redis) -> None:
    one = job()
    submit(one)
    taken = claim()
    assert taken is not None
    logprob = Logprob(-0.25, ((3, -0.25), (4, -2.0)))
    step = Delta(str(one.id), 0, (3,), "x", logprobs=(logprob,))
    assert append([(one.id, taken.attempt, step)]) == ["ok"]
    [(entry, stored)] = stream.entries(state().xrange(f"stream:{one.id}"))
    [piece] = stream.opened([(entry, stored)], RING.cipher(stream.place(1, one.id)))
    assert isinstance(piece, stream.Piece)
    assert piece.logprobs == (logprob,)
