"""Small tables that every request reads (prices, the catalog), held in memory.

A reader never waits for the database: it gets what is there, and an old value is renewed in the
background. Only the first read of a process loads while its caller waits.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

from django.db import InterfaceError, OperationalError, close_old_connections, connection

from kit.postgres import patience

T = TypeVar("T")
_PATIENCE = 5.0
log = logging.getLogger(__name__)


class Snapshot(Generic[T]):
    """What `load` returned, at most `seconds` old plus the time a renewal takes."""

    def __init__(self, load: Callable[[], T], *, seconds: float) -> None:
        self._load = load
        self._seconds = seconds
        self._value: T | None = None
        self._loaded_at = float("-inf")
        self._lock = Lock()
        self._renewal: asyncio.Task[None] | None = None

    def get(self) -> T:
        """The value, for threads: an old one is loaded again first, if the database answers."""
        if self._value is None or self._is_old():
            with self._lock:
                if self._value is None:
                    self._renew()
                elif self._is_old():
                    self._renew_or_keep()
        assert self._value is not None  # noqa: S101  _renew has set it or raised
        return self._value

    async def aget(self) -> T:
        """The value, for the event loop: an old one is renewed behind the caller's back."""
        if self._value is None:
            return await asyncio.to_thread(self.get)
        if self._is_old() and (self._renewal is None or self._renewal.done()):
            self._renewal = asyncio.create_task(self._renew_quietly())
        return self._value

    @property
    def held(self) -> T | None:
        """What was loaded last, however old; None if nothing was."""
        return self._value

    def forget(self) -> None:
        """Load anew at the next read."""
        self._value, self._loaded_at = None, float("-inf")

    def _is_old(self) -> bool:
        return time.monotonic() - self._loaded_at > self._seconds

    def _renew(self) -> None:
        try:
            with patience(_PATIENCE):
                self._value = self._load()
            self._loaded_at = time.monotonic()
        finally:
            if not connection.in_atomic_block:
                close_old_connections()

    def _renew_or_keep(self) -> None:
        try:
            self._renew()
        except (OperationalError, InterfaceError):
            if connection.in_atomic_block:
                raise  # the transaction is lost with its connection
            log.warning("a snapshot could not be renewed; the old one serves on", exc_info=True)
            self._loaded_at = time.monotonic()

    async def _renew_quietly(self) -> None:
        try:
            await asyncio.to_thread(self._renew)
        except Exception:
            log.exception("a snapshot could not be renewed; the old one serves on")
