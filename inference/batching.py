"""Carrying out a batch: its lines go the way of every request, some at a time, until all ended.

A worker holds the batch for a turn of some seconds, then leaves it to whoever's turn is next; so
does one that stops. What it has begun runs on, and the next finds it by its request's id.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import structlog
from django.db import InterfaceError, OperationalError
from redis.exceptions import RedisError

from inference import jobs
from inference.api.offline import Offline, answer
from inference.batches import batch as life
from inference.batches import files, results
from inference.batches.models import Batch, BatchLine, line_place
from inference.batches.reading import Unfit, lines_of
from inference.generation import Cancelled, NotKept, Unserved
from inference.jobs import PRIORITIES
from inference.live import Listener
from kit.edge import Broken, openai_body
from kit.envelope import Unreadable, sealed_under
from kit.errors import Refused, Unavailable
from kit.redis import leave_loop
from kit.threads import in_thread
from tenants import datakeys, watch
from tenants.auth import Caller, recalled

TURN_SECONDS = 30.0
AT_ONCE = 16
"""Lines of one batch under way."""
_LOOK_SECONDS = 2.0
_LONGEST_PAUSE = 5.0
_AGAIN = frozenset({408, 429, 503})
"""Refusals that are of the moment."""
State = Batch.State

log = structlog.get_logger()


def carry(batch: Batch, *, stopping: Callable[[], bool], turn: float = TURN_SECONDS) -> None:
    """Work at a leased batch for a turn; in a thread that has no event loop."""
    asyncio.run(_carry(batch, stopping, turn))


async def _carry(batch: Batch, stopping: Callable[[], bool], turn: float) -> None:
    try:
        await _Turn(batch, stopping=stopping, until=time.monotonic() + turn)()
    except Unavailable as error:
        log.warning("a batch has to wait", batch=str(batch.pk), error=str(error))
    except Refused as refusal:
        errors = [{"code": refusal.code, "line": None, "message": str(refusal), "param": None}]
        await in_thread(results.finalize, batch, State.FAILED, now=_now(), errors=errors)
    finally:
        try:
            await in_thread(life.release, batch, now=_now())
        finally:  # PostgreSQL may be away; what is kept of the loop keeps its connections open
            Listener.leave_loop()
            watch.leave_loop()
            await leave_loop()


class _Turn:
    """A worker's time with a batch."""

    def __init__(self, batch: Batch, *, stopping: Callable[[], bool], until: float) -> None:
        self._batch = batch
        self._stopping = stopping
        self._until = until
        self._state = batch.state
        self._under_way: dict[UUID, asyncio.Task[None]] = {}
        self._looked_at = time.monotonic()

    async def __call__(self) -> None:
        """Go on where the last one stopped."""
        await self._allowed()
        if self._state == State.VALIDATING and not await self._read():
            return
        try:
            await self._work()
        finally:
            await self._let_go()

    async def _allowed(self) -> Caller:
        """Whose it is, as they may now; remembered, so that each line can ask."""
        return await recalled(self._batch.key, slug=self._batch.organization.slug)

    async def _read(self) -> bool:
        """Whether it has lines now."""
        batch = self._batch
        try:
            file = await in_thread(files.one, batch.organization_id, f"file-{batch.input_file}")
            lines = await in_thread(lines_of, batch, file)
        except Unfit as unfit:
            errors = unfit.errors
            await in_thread(results.finalize, batch, State.FAILED, now=_now(), errors=errors)
            return False
        except Unreadable as error:
            raise files.NoFile("The input file cannot be read any more.") from error
        return await in_thread(life.begin, batch, lines, now=_now())

    async def _work(self) -> None:
        while not self._stopping() and time.monotonic() < self._until:
            is_over = self._batch.expires_at <= _now()
            if self._state == State.CANCELLING or is_over:
                await self._stop()
                outcome = State.CANCELLED if self._state == State.CANCELLING else State.EXPIRED
                await in_thread(results.finalize, self._batch, outcome, now=_now())
                return
            try:
                await self._allowed()
            except Unavailable:
                raise
            except Refused:
                await self._stop()
                raise
            if not await self._fill() and not self._under_way:
                await in_thread(results.finalize, self._batch, State.COMPLETED, now=_now())
                return
            await asyncio.wait(
                self._under_way.values(), timeout=0.5, return_when=asyncio.FIRST_COMPLETED
            )
            self._reap()
            if not await self._look():
                return

    async def _look(self) -> bool:
        """Renew the lease now and then, and hear of a cancellation; False if it is lost."""
        if time.monotonic() - self._looked_at > _LOOK_SECONDS:
            self._looked_at = time.monotonic()
            state = await in_thread(life.renew, self._batch, now=_now())
            if state is None or state not in Batch.OPEN:
                return False
            self._state = state
        return True

    async def _fill(self) -> bool:
        """Begin as many lines as there is room for; whether there were some."""
        room = AT_ONCE - len(self._under_way)
        if room <= AT_ONCE // 2 and self._under_way:
            return True
        begun = frozenset(self._under_way)
        found = await in_thread(life.waiting, self._batch, most=room, but=begun)
        for line in found:
            self._begin(line)
        return bool(found)

    def _begin(self, line: BatchLine) -> None:
        self._under_way[line.request] = asyncio.create_task(self._line(line))

    def _reap(self) -> None:
        for request, task in [*self._under_way.items()]:
            if task.done():
                del self._under_way[request]
                if error := task.exception():
                    log.error("a line was not noted", request=str(request), exc_info=error)

    async def _line(self, line: BatchLine) -> None:
        try:
            status, body = 200, await self._answer(line)
        except Cancelled as refusal:
            if await self._is_stopped():
                return
            status, body = refusal.status, openai_body(refusal)
        except Refused as refusal:
            status, body = refusal.status, openai_body(refusal)
        except Exception:
            log.exception("a line of a batch broke", request=str(line.request))
            status, body = 500, openai_body(Broken("Something broke on our side."))
        await in_thread(life.note, self._batch, line, status=status, answer=orjson.dumps(body))

    async def _answer(self, line: BatchLine) -> dict[str, Any]:
        while True:
            try:
                asked = Offline(
                    caller=_behind_others(await self._allowed()),
                    endpoint=self._batch.endpoint,
                    body=await in_thread(_opened, self._batch.organization_id, line),
                    request=line.request,
                    label=self._batch.label,
                    project=self._batch.project,
                )
                return await answer(asked)
            except Refused as refusal:
                is_passing = refusal.status in _AGAIN or isinstance(refusal, NotKept)
                if not is_passing or isinstance(refusal, Unserved):
                    raise
                await asyncio.sleep(min(refusal.retry_after or 1.0, _LONGEST_PAUSE))
            except (RedisError, OperationalError, InterfaceError) as error:
                log.warning("a line of a batch waits for a server", error=str(error))
                await asyncio.sleep(1.0)

    async def _is_stopped(self) -> bool:
        found = await in_thread(life.one, self._batch.organization_id, f"batch_{self._batch.pk}")
        return found.state != State.IN_PROGRESS or found.expires_at <= _now()

    async def _stop(self) -> None:
        """End what is under way, also what an earlier turn has begun; what had ended is noted."""
        begun = frozenset(self._under_way)
        for line in await in_thread(life.waiting, self._batch, most=4 * AT_ONCE, but=begun):
            if await jobs.exists(line.request):
                self._begin(line)
        for request in [*self._under_way]:
            await jobs.cancel(request=request, organization=self._batch.organization_id)
        if self._under_way:
            await asyncio.wait(self._under_way.values(), timeout=30)

    async def _let_go(self) -> None:
        """Leave what is under way to itself."""
        for task in self._under_way.values():
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)


def _behind_others(caller: Caller) -> Caller:
    """Batches wait until nobody waits for an answer."""
    return replace(caller, priority=PRIORITIES - 1)


def _opened(organization: int, line: BatchLine) -> bytes:
    sealed = bytes(line.asked)
    ring = datakeys.ring(organization, needs=sealed_under(sealed))
    return ring.unseal(sealed, line_place(organization, "asked", line.request))


def _now() -> datetime:
    return datetime.now(UTC)
