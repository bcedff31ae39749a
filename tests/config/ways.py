"""Goes every way by which the platform reaches its servers once, and prints what came of each.

Run by test_tls.py, with the servers' addresses in the environment.
"""

import asyncio
import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import django
import psycopg

django.setup()

from django.conf import settings  # noqa: E402
from django.core.cache import cache  # noqa: E402
from django.db import connection  # noqa: E402

from celery_app.app import app  # noqa: E402
from config.health import parts  # noqa: E402
from config.stack.layout import Layout  # noqa: E402
from config.stack.servers import Servers  # noqa: E402
from kit import redis as kit_redis  # noqa: E402
from kit.transit import libpq  # noqa: E402


def _query() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _query_of_another_thread() -> None:
    found: list[Exception] = []

    def run() -> None:
        try:
            _query()
        except Exception as error:
            found.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in found:
        raise error


def _listen() -> None:
    with kit_redis.listener() as client:
        client.blpop(["none"], timeout=1)


async def _read() -> None:
    async with kit_redis.async_listener() as client:
        await client.xread({"none": "$"}, block=10)


async def _subscribe() -> None:
    async with kit_redis.async_listener() as client, client.pubsub() as channel:
        await channel.subscribe("none")


async def _state() -> None:
    try:
        await kit_redis.async_state().ping()
    finally:
        await kit_redis.leave_loop()


async def _health() -> None:
    try:
        found = await parts()
    finally:
        await kit_redis.leave_loop()
    down = [name for name in ("redis", "database") if found[name] != "ok"]
    if down:
        raise RuntimeError(f"{' and '.join(down)} down")


def _publish() -> None:
    with app.connection_for_write() as broker:
        channel: Any = broker.channel()
        channel.client.ping()


def _consume() -> None:
    """By the connections that a worker's event loop polls."""
    with app.connection_for_read() as broker:
        channel: Any = broker.channel()
        channel._create_client(asynchronous=True).ping()


def main() -> None:
    """Go all ways."""
    layout = Layout.of_this_checkout()
    servers = Servers("", os.environ["REDIS_URL"])
    ways: dict[str, Callable[[], Any]] = {
        "start": lambda: Servers.start(layout),
        "start, Redis": lambda: servers._reach_redis(layout),
        "Django": _query,
        "Django, another thread": _query_of_another_thread,
        "psycopg": lambda: psycopg.connect(libpq(os.environ["DATABASE_URL"])).close(),
        "state": lambda: kit_redis.state().ping(),
        "state, asyncio": lambda: asyncio.run(_state()),
        "caches": lambda: kit_redis.cached().ping(),
        "Django's cache": lambda: cache.get("none"),
        "listener": _listen,
        "listener, asyncio": lambda: asyncio.run(_read()),
        "subscription": lambda: asyncio.run(_subscribe()),
        "Celery publishes": _publish,
        "Celery consumes": _consume,
        "health": lambda: asyncio.run(_health()),
    }
    pool: Any = settings.DATABASES["default"]["OPTIONS"]["pool"]
    pool["timeout"] = 0.5
    found = dict.fromkeys(ways, "reached")
    for name, way in ways.items():
        try:
            way()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    with suppress(Exception):
        connection.close()
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
