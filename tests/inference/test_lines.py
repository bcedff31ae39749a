"""Who is let into a line that is nearly full, who goes for them, and who is blamed for deaths."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import cast
from uuid import UUID

import pytest
from asgiref.sync import async_to_sync
from redis import Redis

from inference import jobs, line, live, stream
from inference.engine import Delta, FinishReason, Outcome
from inference.jobs import Claim, Job
from inference.line import Newcomer, QueueFull, Refusals, ShareFull
from inference.worker.held import Held
from kit.ids import request_id
from kit.redis import pipeline, state
from tests.inference.parts import ECHO, RING, append, fields, job, submit


def paced(most: int, ms: int = 1000) -> None:
    state().hset(f"queue:{ECHO}:pace", mapping={"most": most, "ms": ms})


def claim(worker: str = "w") -> Claim | None:
    return jobs.claim(model=ECHO, worker=worker)


def claimed(count: int, worker: str = "w") -> list[UUID]:
    return [found.job.id for _ in range(count) if (found := claim(worker)) is not None]


def states(*some: Job) -> list[str]:
    return [fields(each.id)["state"] for each in some]


def die(worker: str) -> None:
    """Its leases run out, and somebody takes its requests up."""
    for rid in cast("list[bytes]", state().zrange(jobs.LEASES, 0, -1)):
        if state().hget(f"job:{rid.decode()}", "worker") == worker.encode():
            state().zadd(jobs.LEASES, {rid: 0})
    jobs.requeue_expired()


def token(of: Job, attempt: int, position: int = 0) -> None:
    assert append([(of.id, attempt, Delta(str(of.id), position, (7,), "x"))]) == ["ok"]


def test_who_was_refused_a_moment_ago_is_told_the_same_and_nobody_else_is() -> None:
    now = [10.0]
    refusals, one = Refusals(lambda: now[0]), Newcomer(ECHO, 1, 1, patient=False)
    refusals.refuse_again(one)
    refusals.note(one, QueueFull("8 requests wait", retry_after=3))
    now[0] += 0.04
    with pytest.raises(QueueFull, match="8 requests wait") as refusal:
        refusals.refuse_again(one)
    assert refusal.value.retry_after == 3
    for other in (replace(one, organization=2), replace(one, priority=0)):
        refusals.refuse_again(other)
    now[0] += 0.02
    refusals.refuse_again(one)


def test_what_runs_in_background_neither_goes_for_others_nor_keeps_them_out(redis: Redis) -> None:
    paced(1)
    batch, background = job(priority=2, organization=1), job(organization=2)
    submit(batch, background, web="")
    urgent = job(organization=3)
    submit(urgent)
    assert states(batch, background, urgent) == ["waiting"] * 3
    with pytest.raises(QueueFull) as refusal:
        submit(job(organization=3))
    assert refusal.value.retry_after == 1


def test_a_batch_in_line_does_not_save_the_longest_line_before_it(redis: Redis) -> None:
    paced(3)
    batch = [job(organization=1, priority=2) for _ in range(20)]
    submit(*batch, web="")
    greedy = [job(organization=1) for _ in range(3)]
    modest = job(organization=2)
    submit(*greedy, modest)
    assert states(*greedy, modest) == ["sealed", "waiting", "waiting", "waiting"]
    assert set(states(*batch)) == {"waiting"}


def test_a_newcomer_is_bounded_by_what_goes_before_it_alone(redis: Redis) -> None:
    paced(2)
    low = [job(organization=1, priority=2) for _ in range(2)]
    submit(*low)
    high = [job(organization=1, priority=0) for _ in range(2)]
    submit(*high)
    assert states(*low) == ["sealed", "sealed"]
    with pytest.raises(QueueFull):
        submit(job(organization=1, priority=0))


def test_an_organization_has_its_share_of_the_background(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "MOST_PATIENT", 2)
    submit(job(), job(priority=2), web="")
    with pytest.raises(ShareFull) as refusal:
        submit(job(), web="")
    assert refusal.value.retry_after is not None
    submit(job(organization=2), web="")
    submit(job())


def test_what_is_waited_for_goes_first_but_for_every_fourth_time(redis: Redis) -> None:
    background = [job() for _ in range(3)]
    submit(*background, web="")
    awaited = [job() for _ in range(6)]
    submit(*awaited)
    a, b = [each.id for each in awaited], [each.id for each in background]
    assert claimed(9) == [*a[:3], b[0], *a[3:6], *b[1:]]
    assert redis.keys(f"queue:{ECHO}:*:lengths") == []


async def test_a_line_is_as_long_as_it_is_after_a_cancellation(redis: Redis) -> None:
    paced(4)
    gone = [job(organization=1) for _ in range(3)]
    submit(*gone)
    for each in gone:
        await jobs.cancel(request=each.id, organization=1)
    left, others = job(organization=1), [job(organization=2) for _ in range(3)]
    submit(left, *others)
    submit(job(organization=3))
    assert states(left, *others) == ["waiting", "sealed", "waiting", "waiting"]


def test_whose_time_is_over_leaves_the_line_though_it_is_not_its_turn(redis: Redis) -> None:
    first, late, in_time = job(), job(timeout=0.001), job(timeout=60.0)
    submit(first, late, in_time)
    while jobs.expire(ECHO) == 0:
        pass
    assert states(first, late, in_time) == ["waiting", "sealed", "waiting"]
    assert fields(late.id)["reason"] == "timeout"
    assert claimed(3) == [first.id, in_time.id]
    assert redis.zcard(f"queue:{ECHO}:deadlines") == 0


def test_its_time_begins_when_it_gets_in_line_however_old_its_id_is(redis: Redis) -> None:
    tied = job(id=request_id(datetime.now(UTC) - timedelta(hours=1)), timeout=60.0)
    submit(tied, job())
    first, other = claim("a"), claim("a")
    assert first is not None
    assert other is not None
    assert first.left is not None
    assert 0 < first.left <= 60
    deadline = Held(first).deadline
    assert deadline is not None
    assert deadline > monotonic()
    assert (other.left, Held(other).deadline) == (None, None)
    redis.hincrby(f"job:{tied.id}", "deadline", -50_000)
    jobs.give_back([(tied.id, 1)])
    again = claim("b")
    assert again is not None
    assert again.left is not None
    assert again.left <= 10, "the time that another worker had it counts"


def test_in_a_full_line_whoever_would_be_reached_too_late_goes_first(redis: Redis) -> None:
    paced(4, ms=5000)
    early, hopeless, calm = job(timeout=12), job(timeout=9), job(timeout=600)
    other = job(organization=2)
    submit(early, job(), hopeless, other)
    redis.zincrby(f"queue:{ECHO}", 1000, str(hopeless.id))
    submit(calm)
    assert states(early, hopeless, other, calm) == ["waiting", "sealed", "waiting", "waiting"]
    assert fields(hopeless.id)["reason"] == "shed"


def test_neighbours_of_a_request_that_kills_its_workers_are_not_set_aside(redis: Redis) -> None:
    poison, *others = all_of_them = [job(organization=each) for each in (1, 2, 3)]
    submit(*all_of_them)
    for worker in ("a", "b"):
        assert len(claimed(3, worker)) == 3
        die(worker)
    held = claim("c")
    assert held is not None
    assert held.suspect
    assert claim("c") is None, "one suspect at a time in a worker"
    while held is not None and held.job.id != poison.id:
        token(next(each for each in others if each.id == held.job.id), held.attempt)
        held = claim("c")
    assert held is not None
    fresh = job(organization=2)
    submit(fresh)
    assert claimed(1, "c") == [fresh.id]
    die("c")
    assert (fields(poison.id)["state"], fields(poison.id)["reason"]) == ("sealed", "failed")
    assert set(states(*others, fresh)) == {"waiting"}
    assert "crashes" not in fields(fresh.id)


def test_a_crash_beside_a_suspect_blames_the_suspect_alone(redis: Redis) -> None:
    poison, fresh = job(organization=1), job(organization=2)
    submit(poison)
    for worker in ("a", "b"):
        claim(worker)
        die(worker)
    submit(fresh)
    assert claimed(2, "c") == [poison.id, fresh.id]
    die("c")
    assert fields(poison.id)["reason"] == "failed"
    assert "crashes" not in fields(fresh.id)


def test_what_the_engine_has_not_begun_is_not_blamed_for_a_crash(redis: Redis) -> None:
    begun, idle, unreported = job(), job(), job()
    submit(begun, idle)
    claimed(2, "a")
    assert jobs.renew([(begun.id, 1, True), (idle.id, 1, False)]) == ["ok", "ok"]
    submit(unreported)
    claimed(1, "a")
    die("a")
    found = [fields(each.id).get("crashes") for each in (begun, idle, unreported)]
    assert found == ["1", None, "1"]


def test_a_crash_that_always_finds_it_waiting_is_looked_at_alone_in_the_end(redis: Redis) -> None:
    idle = job()
    submit(idle)
    for attempt in range(1, 5):
        assert claimed(1, "a") == [idle.id]
        jobs.renew([(idle.id, attempt, False)])
        die("a")
    held = claim("a")
    assert held is not None
    assert held.suspect
    token(idle, held.attempt)
    die("a")
    assert "suspect" not in fields(idle.id)


@pytest.mark.parametrize("ended", [False, True])
def test_a_whole_stream_is_one_entry_from_which_one_reads_on_behind_any_piece(
    redis: Redis, ended: bool
) -> None:
    one = job()
    submit(one)
    claim()
    for position in range(200):
        token(one, 1, position)
    cipher = RING.cipher(stream.place(1, one.id))
    assert not stream.compact(one.id, cipher), "more may come"
    stop = Outcome(FinishReason.stop, 2, 0, 200)
    append([(one.id, 1, Delta(str(one.id), 200, (), "", stop))])
    if ended:
        end = stream.Ended("", "stop", 2, 0, 200, 4000, "EUR", "")
        pipeline(lambda pipe: stream.end(pipe, request=one.id, event=end))
    before, size = stream.read(1, one.id), redis.memory_usage(f"stream:{one.id}") or 0
    assert stream.compact(one.id, cipher)
    assert redis.xlen(f"stream:{one.id}") == 1 + ended
    assert (redis.memory_usage(f"stream:{one.id}") or 0) < size / 3
    assert (redis.ttl(f"stream:{one.id}") > 0) == ended
    assert stream.read(1, one.id) == before

    async def behind(after: str) -> list[stream.Event]:
        return await live._read(1, one.id, after=after)

    for at, each in list(enumerate(before))[::20]:
        assert async_to_sync(behind)(each.entry) == before[at + 1 :]


def test_nobody_reaps_before_redis_has_answered_for_a_whole_lease(redis: Redis) -> None:
    assert jobs.beat(worker="a") is jobs.Reaper.WAITS
    assert jobs.beat(worker="b") is jobs.Reaper.OTHER
    redis.hincrby(jobs.BEATS, "since", -jobs.LEASE_MS)
    assert jobs.beat(worker="a") is jobs.Reaper.REAPS
    redis.hincrby(jobs.BEATS, "last", -jobs.LEASE_MS)
    one = job()
    submit(one)
    claim("dead")
    redis.zadd(jobs.LEASES, {str(one.id): 0})
    assert jobs.requeue_expired() == [], "the reaper was about to when Redis hung"
    assert jobs.beat(worker="a") is jobs.Reaper.WAITS


def test_after_a_pause_only_who_does_not_listen_is_dead(redis: Redis) -> None:
    alive, dead = job(), job()
    submit(alive, dead)
    with redis.pubsub() as channel:  # type: ignore[no-untyped-call]
        channel.subscribe("worker:alive")
        channel.get_message(timeout=5)
        claim("alive")
        claim("dead")
        for each in (alive, dead):
            redis.zadd(jobs.LEASES, {str(each.id): 0})
        jobs.beat(worker="a")
        redis.hincrby(jobs.BEATS, "since", -jobs.SILENT_MS)
        assert jobs.beat(worker="a") is jobs.Reaper.WAITS, "the server may have begun anew"
        redis.hincrby(jobs.BEATS, "began", -jobs.LEASE_MS)
        assert jobs.beat(worker="a") is jobs.Reaper.OF_DEAF
        jobs.requeue_expired(of_deaf=True)
    assert states(alive, dead) == ["running", "waiting"]


def test_a_server_that_began_anew_or_took_over_is_given_a_whole_lease(redis: Redis) -> None:
    jobs.beat(worker="a")
    redis.hincrby(jobs.BEATS, "since", -jobs.LEASE_MS)
    redis.hincrby(jobs.BEATS, "began", -jobs.LEASE_MS)
    assert jobs.beat(worker="a") is jobs.Reaper.REAPS
    redis.hset(jobs.BEATS, "run", "another server's")
    assert jobs.beat(worker="a") is jobs.Reaper.WAITS
