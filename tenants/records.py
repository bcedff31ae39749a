"""Rows that every request needs, kept where it can read them without the database.

A record is held in this process for half a second, then read from Redis, and only where Redis has
none from PostgreSQL. Whoever changes the row puts a mark in the record's place, before and again
after the commit. While a mark stands nobody can put a record back, so a reader that met the row as
it was cannot outlast the change; should the changer die on the way, the mark runs out and the row
is read as it is. A change is therefore everywhere within a second, whatever crashes.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeVar

import orjson
from django.db import InterfaceError, OperationalError, close_old_connections, transaction

from kit.errors import Refused
from kit.redis import async_state, state

T = TypeVar("T")
Fields = dict[str, Any]
Gate = Callable[[Callable[[], Awaitable[bytes]]], Awaitable[bytes]]
"""What looks for a row that may well not be there, or refuses to."""

HELD_SECONDS = 0.5
KEPT_MS = 300_000
UNKNOWN_KEPT_MS = 10_000
MARK_MS = 30_000
_FILL_SECONDS = 5.0
"""A row read longer ago than this is not kept: it must reach Redis well before a mark runs out."""
_MOST_HELD = 10_000
_MARK = b""
UNKNOWN = b"null"
"""What is kept where there is no such row."""

_fillers = ThreadPoolExecutor(4, "records")
"""Few, so as not to take every database connection. `tenants.guesses` bounds who may crowd them."""


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

    async def get(self, identifier: str, *, gate: Gate | None = None) -> T | None:
        """The record, at most half a second behind; None where there is no such row.

        `gate` stands before the database where neither this process nor Redis knows of it. Raises
        what it raises.
        """
        while True:
            until, value = self._held.get(identifier, (0.0, None))
            if until > time.monotonic():
                return value
            flight, is_anothers = self._flight(identifier, gate)
            if identifier in self._out_of_reach:
                return value
            try:
                return await asyncio.shield(flight)
            except Refused:
                if not is_anothers:
                    raise

    def forget(self) -> None:
        """Drop what this process holds."""
        self._held.clear()
        self._out_of_reach.clear()

    def _flight(self, identifier: str, gate: Gate | None) -> tuple[asyncio.Task[T | None], bool]:
        """One fetch for all who wait for the same record, and whether another began it."""
        flight = self._flights.get(identifier)
        if flight is not None and flight.get_loop() is asyncio.get_running_loop():
            return flight, True
        flight = asyncio.create_task(self._fetch(identifier, gate))
        self._flights[identifier] = flight
        flight.add_done_callback(lambda done: self._landed(identifier, done))
        return flight, False

    def _landed(self, identifier: str, flight: asyncio.Task[T | None]) -> None:
        if self._flights.get(identifier) is flight:
            del self._flights[identifier]
        if not flight.cancelled() and flight.exception() is not None:
            self._out_of_reach.discard(identifier)

    async def _fetch(self, identifier: str, gate: Gate | None) -> T | None:
        started = time.monotonic()
        raw = await async_state().get(_name(self._kind, identifier))
        if not raw:
            loop = asyncio.get_running_loop()
            look = partial(loop.run_in_executor, _fillers, self._fill, identifier)
            is_strange = raw is None and self._held.get(identifier, (0, None))[1] is None
            try:
                raw = await (gate(look) if gate and is_strange else look())
            except (OperationalError, InterfaceError):
                if raw == _MARK or identifier not in self._held:
                    raise
                self._out_of_reach.add(identifier)
                return self._held[identifier][1]
        self._out_of_reach.discard(identifier)
        fields = orjson.loads(raw)
        value = None if fields is None else self._shape(fields)
        self._hold(identifier, started + HELD_SECONDS, value)
        return value

    def _hold(self, identifier: str, until: float, value: T | None) -> None:
        """Instead of what was not asked for the longest."""
        self._held.pop(identifier, None)
        if len(self._held) >= _MOST_HELD:
            oldest = next(iter(self._held))
            del self._held[oldest]
            self._out_of_reach.discard(oldest)
        self._held[identifier] = (until, value)

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
