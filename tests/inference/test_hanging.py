"""Servers that hang instead of dying hold up nothing that does not need them."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.db import OperationalError, connection
from redis import Redis

from config import health
from inference import jobs, pace
from inference.catalog import offers
from inference.jobs import Job
from inference.line import submitted
from inference.worker import watch
from inference.worker.stations import Stations
from kit import redis as kit_redis
from kit.embedded import Valkey, free_port
from kit.errors import Unavailable
from kit.postgres import patience
from tests.inference.parts import ECHO, append, fields, job, submit
from tests.inference.test_jobs import delta


@contextmanager
def stopped(*processes: int) -> Iterator[None]:
    """As if their machine hung."""
    for each in processes:
        os.kill(each, signal.SIGSTOP)
    try:
        yield
    finally:
        for each in processes:
            os.kill(each, signal.SIGCONT)


def backend() -> int:
    """The server's process behind this thread's connection."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        [pid] = cursor.fetchone()
    return int(pid)


def in_thread(work: Callable[[], None]) -> None:
    """Within some seconds, and what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it hangs"
    if raised:
        raise raised[0]


@pytest.mark.django_db(transaction=True)
def test_whoever_has_patience_for_so_long_is_told_that_postgresql_hangs() -> None:
    with stopped(backend()), pytest.raises(OperationalError), patience(0.2):
        backend()
    connection.close()
    assert backend()


@pytest.mark.django_db(transaction=True)
def test_a_dead_workers_requests_go_on_while_postgresql_hangs(
    one: Job, announced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert jobs.claim(model=ECHO, worker="dead") is not None
    kit_redis.state().zadd(jobs.LEASES, {str(one.id): 0})

    def reap() -> None:
        with stopped(backend()):
            monkeypatch.setattr(offers._catalog, "_loaded_at", float("-inf"))
            watch.take_up()
            watch.keep_lines()

    in_thread(reap)
    assert fields(one.id)["state"] == "waiting"
    assert announced == [ECHO]


@pytest.mark.django_db(transaction=True)
def test_a_database_that_hangs_is_asked_by_one_thread_however_often_health_is(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_PATIENCE", 0.2)
    monkeypatch.setattr(health, "_FRESH_SECONDS", 0.0)
    database = health.Database()

    async def ask() -> list[bool]:
        return [await database.is_up() for _ in range(4)]

    assert asyncio.run(ask())[-1]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        others = [pid for (pid,) in cursor.fetchall()]
    mine = backend()
    with stopped(psutil.Process(mine).ppid(), mine, *others):
        before = time.monotonic()
        assert asyncio.run(ask()) == [False] * 4
        assert time.monotonic() - before < 10
        probes = [each for each in threading.enumerate() if each.name.startswith("database probe")]
        assert len(probes) <= 2, "one of this test's, one of the platform's"
    connection.close()


@pytest.fixture
def valkey(tmp_path: Path, settings: Any) -> Iterator[Valkey]:
    """A server of its own, which may be stopped."""
    server = Valkey(tmp_path / "valkey", port=free_port(), durable=False)
    server.start()
    settings.REDIS_URL = server.url
    kit_redis.state.cache_clear()
    yield server
    kit_redis.state().close()
    kit_redis.state.cache_clear()
    server.stop()


def test_nobody_takes_up_what_runs_because_redis_hung(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "LEASE_MS", 600)
    monkeypatch.setattr(jobs, "SILENT_MS", 200)
    listener = kit_redis.listener().pubsub()  # type: ignore[no-untyped-call]
    listener.subscribe("worker:alive")
    listener.get_message(timeout=5)
    one = job()
    submit(one)
    assert jobs.claim(model=ECHO, worker="alive") is not None
    assert valkey._process is not None

    def beats(seconds: float) -> jobs.Reaper:
        until = time.monotonic() + seconds
        while True:
            role = jobs.beat(worker="reaper")
            if role >= jobs.Reaper.OF_DEAF:
                assert jobs.requeue_expired(of_deaf=role is jobs.Reaper.OF_DEAF) == []
            if time.monotonic() > until:
                return role
            time.sleep(0.02)
            jobs.renew([(one.id, 1, True)])

    assert beats(0.8) is jobs.Reaper.REAPS
    with stopped(valkey._process.pid):
        late = threading.Thread(target=jobs.requeue_expired)  # a reaper's that was about to
        late.start()
        time.sleep(1.0)
    late.join(10)
    assert fields(one.id)["state"] == "running"
    assert jobs.beat(worker="reaper") is jobs.Reaper.WAITS
    assert beats(0.8) is jobs.Reaper.REAPS
    assert append([(one.id, 1, delta(one, 0, 5))]) == ["ok"]
    listener.close()


def test_nothing_new_is_let_in_while_redis_is_nearly_full(valkey: Valkey) -> None:
    client = kit_redis.state()
    submit(job())
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.05))
    pace.watch_memory()
    with pytest.raises(Unavailable) as refusal:
        submit(job())
    assert (refusal.value.retry_after or 0) >= 5
    assert "nearly full" in refusal.value.message
    client.config_set("maxmemory", 0)
    pace.watch_memory()
    submit(job())


def test_a_refusal_of_many_spreads_their_return() -> None:
    found = set()
    for _ in range(20):
        with pytest.raises(Unavailable) as refusal:
            submitted([b"memory"])
        found.add(refusal.value.retry_after)
    assert len(found) > 10


def test_a_worker_that_has_stopped_listens_to_nothing_more(redis: Redis) -> None:
    def listening() -> int:
        return sum(thread.name == "control" for thread in threading.enumerate())

    before = listening()
    stations = Stations([], lambda _: pytest.fail("nothing is to be loaded"), memory=0)
    watching = watch.Watch(worker="over", stations=stations, sealed=lambda _: None)
    watching.start()
    assert listening() == before + 1
    watching.stop()
    until = time.monotonic() + 10
    while listening() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert listening() == before
