"""The servers behind the platform: our own, or those that the environment names."""

import os
from dataclasses import dataclass, field

import psycopg
import redis

from config.stack import ports
from config.stack.layout import Layout
from kit.embedded import LOCAL, Postgres, Server, ServerFailed, Valkey
from kit.transit import libpq, told

_ATTEMPTS = 3
"""A port that was free may be taken by the time a server binds it."""
_MOST_FAILURES = 5


class Unreachable(Exception):
    """A server that the environment names does not answer."""


@dataclass(slots=True)
class Servers:
    """PostgreSQL and a Redis, with their addresses."""

    database_url: str
    redis_url: str
    own: list[Server] = field(default_factory=list)
    failures: int = 0
    """Starts in a row that failed."""

    @classmethod
    def start(cls, layout: Layout) -> "Servers":
        """Start the servers for which no DATABASE_URL or REDIS_URL is given; check the others."""
        servers = cls(os.environ.get("DATABASE_URL", ""), os.environ.get("REDIS_URL", ""))
        try:
            servers._reach_postgres(layout)
            servers._reach_redis(layout)
        except BaseException:
            servers.stop()
            raise
        return servers

    def revive(self) -> list[str]:
        """Start again those of our own that died; returns the names of those that run again.

        One that does not start is tried again at the next call, and raises `ServerFailed` when that
        has gone on for long: it may have been killed while it was starting.
        """
        return [server.name for server in self.own if not server.alive() and self._starts(server)]

    def _starts(self, server: Server) -> bool:
        try:
            server.start()
        except ServerFailed:
            self.failures += 1
            if self.failures > _MOST_FAILURES:
                raise
            return False
        self.failures = 0
        return True

    def stop(self) -> None:
        """Stop our own, the last started first."""
        while self.own:
            self.own.pop().stop()

    def _reach_postgres(self, layout: Layout) -> None:
        if not self.database_url:
            self.database_url = self._start(
                Postgres(layout.var / "postgres", port=0), layout, "postgres"
            )
            return
        try:
            psycopg.connect(libpq(self.database_url), connect_timeout=5).close()
        except psycopg.Error as error:
            raise Unreachable(
                f"PostgreSQL at DATABASE_URL does not answer: {told(error)}"
            ) from None

    def _reach_redis(self, layout: Layout) -> None:
        if not self.redis_url:
            self.redis_url = self._start(Valkey(layout.var / "valkey", port=0), layout, "valkey")
            return
        try:
            with redis.Redis.from_url(self.redis_url, socket_timeout=5.0) as client:
                client.ping()
        except (redis.RedisError, OSError) as error:
            raise Unreachable(f"Redis at REDIS_URL does not answer: {told(error)}") from None

    def _start(self, server: Server, layout: Layout, name: str) -> str:
        server.end_leftovers()
        self.own.append(server)
        for attempt in range(_ATTEMPTS):
            server.port = ports.remembered(layout.ports, name)
            try:
                server.start()
                break
            except ServerFailed:
                if attempt == _ATTEMPTS - 1 or ports.is_free(LOCAL, server.port):
                    raise
        return server.url


def end_leftovers(layout: Layout) -> None:
    """Stop the servers of a stack that was killed."""
    for server in (Postgres, Valkey):
        folder = layout.var / server.__name__.lower()
        if folder.is_dir():
            server(folder, port=0).end_leftovers()


__all__ = ["ServerFailed", "Servers", "Unreachable", "end_leftovers"]
