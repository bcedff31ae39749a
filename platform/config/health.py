"""GET /health: 200 only when a request sent now can be served, if not every one of them."""

import asyncio
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from django.conf import settings
from django.db import DatabaseError, InterfaceError, close_old_connections, connection
from django.http import HttpRequest, HttpResponse

from inference.catalog.offers import held_offers
from inference.fleet import fleet
from inference.pace import Pressure, pressure
from kit.edge import Json
from kit.postgres import patience
from kit.redis import async_state

_PATIENCE = 2.0
_FRESH_SECONDS = 1.0
_BEHIND_SECONDS = 15.0
"""From when on books that wait are worth a word."""


class Database:
    """Whether PostgreSQL answers, asked at most once a second however often we are, by one thread
    of its own: others' are not to wait for one that hangs."""

    def __init__(self) -> None:
        self._answered = False
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="database probe")
        self._probe: Future[bool] | None = None

    async def is_up(self) -> bool:
        """The last answer, if it is fresh."""
        async with self._asking:
            if time.monotonic() - self._asked_at > _FRESH_SECONDS:
                if self._probe is None or self._probe.done():
                    self._probe = self._thread.submit(_ask_database)
                answer = asyncio.shield(asyncio.wrap_future(self._probe))
                self._answered = await _within(answer) is True
                self._asked_at = time.monotonic()
        return self._answered


_database = Database()


async def health(request: HttpRequest) -> HttpResponse:
    """The parts, and whether they make a whole."""
    found = await parts()
    status = 503 if found["status"] == "unavailable" else 200
    return Json(found, status=status, headers={"Cache-Control": "no-store"})


async def parts() -> dict[str, Any]:
    """What /health says."""
    redis = await _within(async_state().ping()) is not None
    database = await _database.is_up()
    now = await _within(fleet()) if redis else None
    pushed = await _within(pressure(now.waiting)) if now else None
    serving = now.serving(settings.DEFAULT_MODEL) if now else 0
    return {
        "status": _status(database=database, serving=serving, pushed=pushed),
        "redis": _word(redis),
        "database": _word(database),
        "model": _model(serving),
        "workers": len(now.workers) if now else 0,
        "cache_hit_rate": round(now.cache_hit_rate if now else 0.0, 4),
        "answer_cache_hit_rate": round(now.answer_hit_rate if now else 0.0, 4),
        "full_queues": [name for name in pushed.full if _is_public(name)] if pushed else [],
        "semantic_cache_hit_rate": round(now.semantic_hit_rate if now else 0.0, 4),
        "books_behind_seconds": round(pushed.behind) if pushed else 0,
        "redis_nearly_full": bool(pushed and pushed.short),
    }


def _status(*, database: bool, serving: int, pushed: Pressure | None) -> str:
    """unavailable: nothing can be served; degraded: some are refused, or bookings wait."""
    if pushed is None or not serving or pushed.behind > settings.BOOKS_BEHIND_SECONDS:
        return "unavailable"
    well = database and not pushed.full and not pushed.short and pushed.behind < _BEHIND_SECONDS
    return "ok" if well else "degraded"


def _model(serving: int) -> dict[str, Any]:
    return {"name": settings.DEFAULT_MODEL, "status": "ok" if serving else "no worker serves it"}


def _is_public(model: str) -> bool:
    """What is an organization's alone is named to nobody else."""
    offer = held_offers().get(model)
    return offer is not None and offer.dedicated_to is None


def _word(up: bool) -> str:
    return "ok" if up else "down"


async def _within(asked: Any) -> Any:
    try:
        return await asyncio.wait_for(asked, _PATIENCE)
    except Exception:
        return None


def _ask_database() -> bool:
    try:
        with patience(_PATIENCE), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return True
    except (DatabaseError, InterfaceError):
        return False
    finally:
        close_old_connections()
