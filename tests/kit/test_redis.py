"""Lua scripts reach a Redis that has never seen them, alone and inside pipelines."""

from pathlib import Path

import pytest
from redis import Redis

from kit import redis as kit_redis
from kit.redis import Lua, async_pipeline, pipeline


@pytest.fixture
def count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lua:
    monkeypatch.setattr(Lua, "known", [])
    script = tmp_path / "count.lua"
    script.write_text("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    return Lua(script)


def test_a_script_runs_where_redis_has_lost_it(redis: Redis, count: Lua) -> None:
    redis.script_flush()
    assert count(["n"], [2]) == 2
    assert count(["n"], [3]) == 5


async def test_a_script_runs_on_the_event_loop_too(redis: Redis, count: Lua) -> None:
    redis.script_flush()
    assert await count.arun(["n"], [2]) == 2
    assert await count.arun(["n"], [3]) == 5


def test_a_pipeline_loads_lost_scripts_and_is_sent_again(redis: Redis, count: Lua) -> None:
    redis.script_flush()
    assert pipeline(lambda pipe: count.add(pipe, ["n"], [2])) == [2]


async def test_an_async_pipeline_loads_lost_scripts_and_is_sent_again(
    redis: Redis, count: Lua
) -> None:
    redis.script_flush()
    assert await async_pipeline(lambda pipe: count.add(pipe, ["n"], [2])) == [2]


def test_a_listener_waits_longer_than_the_common_time_out(redis: Redis) -> None:
    common = kit_redis.state().connection_pool.connection_kwargs["socket_timeout"]
    assert common == 5.0
    with kit_redis.listener() as listener:
        assert listener.connection_pool.connection_kwargs["socket_timeout"] is None
        assert listener.ping()
