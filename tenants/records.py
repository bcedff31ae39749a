"""Rows that every request needs, kept where it can read them without the database.

A record is held in this process for half a second, then read from Redis, and only where Redis has
none from PostgreSQL. Whoever changes the row puts a mark in the record's place, before and again
after the commit. While a mark stands nobody can put a record back, so a reader that met the row as
it was cannot outlast the change; should the changer die on the way, the mark runs out and the row
is read as it is. A change is therefore everywhere within a second, whatever crashes.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import orjson
from django.db import InterfaceError, OperationalError, close_old_connections, transaction

from kit.redis import async_state, state

T = TypeVar("T")
Fields = dict[str, Any]

HELD_SECONDS = 0.5
KEPT_MS = 300_000
UNKNOWN_KEPT_MS = 10_000
MARK_MS = 30_000
_FILL_SECONDS = 5.0
"""A row read longer ago than this is not kept: it must reach Redis well before a mark runs out."""
_MOST_HELD = 10_000
_MARK = b""

_fillers = ThreadPoolExecutor(4, "records")
"""Few: a flood of unknown keys must not take every database connection."""


@contextmanager
def changing(kind: str, identifier: object) -> Iterator[None]:
    """Around the change of a row, in a transaction or not: its record is not believed any more."""
    name = _name(kind, identifier)

    def mark() -> None:
        state().set(name, _MARK, px=MARK_MS)

    mark()
    yield
    transaction.on_commit(mark, robust=True)


class Records(Generic[T]):
    """The records of one kind: `load` reads a row's fields, `shape` makes them a value."""

    def __init__(
        self, kind: str, *, load: Callable[[str], Fields | None], shape: Callable[[Fields], T]
    ) -> None:
        self._kind = kind
        self._load = load
        self._shape = shape
        self._held: dict[str, tuple[float, T | None]] = {}
        self._flights: dict[str, asyncio.Task[T | None]] = {}
        self._out_of_reach: set[str] = set()

    async def get(self, identifier: str) -> T | None:
        """The record, at most half a second behind; None where there is no such row."""
        until, value = self._held.get(identifier, (0.0, None))
        if until > time.monotonic():
            return value
        flight = self._flight(identifier)
        if identifier in self._out_of_reach:
            return value
        return await asyncio.shield(flight)

    def forget(self) -> None:
        """Drop what this process holds."""
        self._held.clear()
        self._out_of_reach.clear()

    def _flight(self, identifier: str) -> asyncio.Task[T | None]:
        """One fetch for all who wait for the same record."""
        flight = self._flights.get(identifier)
        if flight is None or flight.get_loop() is not asyncio.get_running_loop():
            flight = asyncio.create_task(self._fetch(identifier))
            self._flights[identifier] = flight
            flight.add_done_callback(lambda done: self._landed(identifier, done))
        return flight

    def _landed(self, identifier: str, flight: asyncio.Task[T | None]) -> None:
        self._flights.pop(identifier, None)
        if not flight.cancelled() and flight.exception() is not None:
            self._out_of_reach.discard(identifier)

    async def _fetch(self, identifier: str) -> T | None:
        started = time.monotonic()
        raw = await async_state().get(_name(self._kind, identifier))
        if not raw:
            loop = asyncio.get_running_loop()
            try:
                raw = await loop.run_in_executor(_fillers, self._fill, identifier)
            except (OperationalError, InterfaceError):
                if raw == _MARK or identifier not in self._held:
                    raise
                self._out_of_reach.add(identifier)
                return self._held[identifier][1]
        self._out_of_reach.discard(identifier)
        fields = orjson.loads(raw)
        value = None if fields is None else self._shape(fields)
        if len(self._held) >= _MOST_HELD:
            self.forget()
        self._held[identifier] = (started + HELD_SECONDS, value)
        return value

    def _fill(self, identifier: str) -> bytes:
        started = time.monotonic()
        try:
            fields = self._load(identifier)
        finally:
            close_old_connections()
        raw = orjson.dumps(fields)
        if time.monotonic() - started < _FILL_SECONDS:
            kept = UNKNOWN_KEPT_MS if fields is None else KEPT_MS
            state().set(_name(self._kind, identifier), raw, nx=True, px=kept)
        return raw


def _name(kind: str, identifier: object) -> str:
    return f"{kind}:{identifier}"
