"""Booking what was sealed: the thread that gathers seals and finishes them together."""

from collections.abc import Sequence
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from uuid import UUID

import structlog
from django.db import InterfaceError, OperationalError, close_old_connections, connection
from psycopg_pool import PoolTimeout
from redis.exceptions import RedisError

from inference.finish import finish, give_up
from inference.history import NoSchema
from inference.sealed import put_off
from kit.postgres import patience

_GATHER_SECONDS = 0.004
_MOST_AT_ONCE = 64
_PATIENCE = 15.0
"""Seconds for an answer of PostgreSQL's; accounts may be locked by a month that closes."""
_AWAY_SECONDS = 5.0
"""How long all is left to the reaper once PostgreSQL did not answer."""

log = structlog.get_logger()


class Finisher:
    """Gathers for a few milliseconds under load, so that a transaction books many requests."""

    def __init__(self) -> None:
        self._sealed: SimpleQueue[UUID | None] = SimpleQueue()
        self._last = 0  # requests in the last transaction
        self._thread = Thread(target=self._run, name="finisher", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Book what is there, then end."""
        self._sealed.put(None)
        self._thread.join(10)

    def finish(self, request: UUID) -> None:
        """Book this request, soon."""
        self._sealed.put(request)

    def _run(self) -> None:
        ending, away_until = False, 0.0
        while not ending:
            batch, ending = self._gather()
            if batch and monotonic() > away_until and not finish_each(batch):
                away_until = monotonic() + _AWAY_SECONDS
        connection.close()

    def _gather(self) -> tuple[list[UUID], bool]:
        first = self._sealed.get()
        if first is None:
            return [], True
        crowded = self._last > 1
        batch, until = [first], monotonic() + (_GATHER_SECONDS if crowded else 0.0)
        while len(batch) < _MOST_AT_ONCE:
            try:
                more = self._sealed.get(timeout=max(0.0, until - monotonic()))
            except Empty:
                break
            if more is None:
                return batch, True
            batch.append(more)
        self._last = len(batch)
        return batch, False


def finish_each(requests: Sequence[UUID]) -> bool:
    """Book together; should that fail, each alone. What fails stays sealed for the reaper.

    False if PostgreSQL or Redis did not answer: then there is no use in going on at once.
    """
    try:
        _finish_answered(requests)
    except NoSchema:
        close_old_connections()
        for request in requests:
            _finish_erased(request)
    except (OperationalError, InterfaceError, RedisError) as error:
        log.warning("the books do not answer", sealed=len(requests), error=str(error))
        close_old_connections()
        return False
    except Exception:
        log.exception("booking failed", requests=[str(request) for request in requests])
        close_old_connections()
        if len(requests) == 1:
            _put_off(requests[0])
        elif len(requests) > 1:
            return sum(finish_each([request]) for request in requests) == len(requests)
    return True


def _finish_answered(requests: Sequence[UUID]) -> None:
    """`finish`; once more where a connection of the pool turned out to be dead."""
    try:
        with patience(_PATIENCE):
            finish(requests, now=datetime.now(UTC))
    except (OperationalError, InterfaceError) as error:
        if isinstance(error.__cause__, PoolTimeout):
            raise
        close_old_connections()
        with patience(_PATIENCE):
            finish(requests, now=datetime.now(UTC))


def _finish_erased(request: UUID) -> None:
    """One of a batch in which somebody's schema is gone; theirs goes into the ledger alone."""
    try:
        try:
            finish([request], now=datetime.now(UTC))
        except NoSchema:
            log.warning("booked without history: its organization was erased", request=str(request))
            finish([request], now=datetime.now(UTC), remembered=False)
    except RedisError as error:
        log.warning("the books do not answer", sealed=1, error=str(error))
    except Exception:
        log.exception("booking failed", requests=[str(request)])
        close_old_connections()
        _put_off(request)


def _put_off(request: UUID) -> None:
    if put_off(request):
        return
    try:
        with patience(_PATIENCE):
            give_up(request, now=datetime.now(UTC))
    except (OperationalError, InterfaceError) as error:
        log.warning("PostgreSQL does not answer", sealed=1, error=str(error))
        close_old_connections()
