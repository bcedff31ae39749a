"""The web process's side of the streams: one connection to Redis, however many are open.

A follower gets its pieces live. Where a live message was missed (the position jumps, or nothing
came for a while) it reads the durable stream; so the live channel is only ever a short cut.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import chain
from types import TracebackType
from typing import ClassVar, Self
from uuid import UUID, uuid4
from weakref import WeakKeyDictionary

import redis.asyncio
import structlog
from django.conf import settings

from inference import undelivered
from inference.stream import (
    Ended,
    Event,
    Piece,
    decode,
    entries,
    entry_order,
    newest,
    opened,
    place,
)
from inference.undelivered import Lost, NotKeptAnyMore
from kit import redis as kit_redis
from kit.envelope import Unreadable
from kit.errors import Refused, Unavailable
from kit.threads import in_thread
from tenants import datakeys

_QUIET_SECONDS = 2.0
_PATIENCE = 5.0
_MOST_UNREAD = 256
"""Live messages that wait for one reader; a slower one reads the stream instead."""
_GAP = ("", b"")
"""Handed to every follower after a break: messages may have been missed."""

log = structlog.get_logger()


class Silent(Refused):
    """The model, or the line before it, gives nothing for too long."""

    status, code = 504, "answer_timed_out"


class Inbox:
    """A follower's live (entry, payload) pairs, and when the last one came.

    One reader waits at a time, and nobody for room: less than `asyncio.Queue` is, at a third of its
    cost a message.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._unread: deque[tuple[str, bytes]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.heard = self._loop.time()

    def __len__(self) -> int:
        """How many are unread."""
        return len(self._unread)

    def put(self, message: tuple[str, bytes]) -> None:
        """One more, however many wait."""
        self._unread.append(message)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take(self, entry: str, payload: bytes) -> None:
        """One more; past the bound nothing, but one gap in place of all that is missed."""
        unread = len(self._unread)
        if unread < _MOST_UNREAD:
            self.put((entry, payload))
        elif unread == _MOST_UNREAD:
            self.put(_GAP)

    async def get(self) -> tuple[str, bytes]:
        """The next, once it is there."""
        while not self._unread:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._unread.popleft()


class Listener:
    """Hands this event loop's live messages to the followers. One a loop, made when needed."""

    _by_loop: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, "Listener"]] = (
        WeakKeyDictionary()
    )

    def __init__(self) -> None:
        self.id = uuid4().hex
        self._open: defaultdict[str, set[Inbox]] = defaultdict(set)
        self._subscribed = asyncio.Event()
        self._task = asyncio.create_task(self._listen())
        self._watch = asyncio.create_task(self._watch_silence())

    @classmethod
    async def here(cls) -> Self:
        """The running loop's listener, subscribed; raises `Unavailable`."""
        loop = asyncio.get_running_loop()
        listener = cls._by_loop.get(loop)
        if listener is None or listener._task.done():
            listener = cls._by_loop[loop] = cls()
        try:
            await asyncio.wait_for(listener._subscribed.wait(), _PATIENCE)
        except TimeoutError as error:
            raise Unavailable("The platform's state does not answer; try again.") from error
        return listener  # type: ignore[return-value]

    @classmethod
    def leave_loop(cls) -> None:
        """Forget the running loop's, before the loop ends: kept, it would keep the loop."""
        cls._by_loop.pop(asyncio.get_running_loop(), None)

    def open(self, request: UUID) -> Inbox:
        """From now on, live messages of this request land there, and a gap after some silence."""
        inbox = Inbox()
        self._open[str(request)].add(inbox)
        return inbox

    def close(self, request: UUID, inbox: Inbox) -> None:
        """Drop what still comes."""
        self._open[str(request)].discard(inbox)
        if not self._open[str(request)]:
            del self._open[str(request)]

    async def _listen(self) -> None:
        while True:
            try:
                async with kit_redis.async_listener() as client, client.pubsub() as channel:
                    await channel.subscribe(f"web:{self.id}")
                    async for message in channel.listen():
                        self._hand_out(message)
            except redis.asyncio.RedisError as error:
                log.warning("the live channel broke; followers read the streams", error=str(error))
                await asyncio.sleep(0.5)

    async def _watch_silence(self) -> None:
        """One timer for all: a timer a message would cost more than the message."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_QUIET_SECONDS / 4)
            now = loop.time()
            for inbox in chain.from_iterable(self._open.values()):
                if now - inbox.heard >= _QUIET_SECONDS:
                    inbox.heard = now
                    if not len(inbox):
                        inbox.put(_GAP)

    def _hand_out(self, message: dict[str, object]) -> None:
        if message["type"] == "subscribe":
            self._subscribed.set()
            for inbox in chain.from_iterable(self._open.values()):
                inbox.put(_GAP)
            return
        data, now = message["data"], asyncio.get_running_loop().time()
        assert isinstance(data, bytes)  # noqa: S101  a message's data, by redis-py's contract
        for line in data.split(b"\n"):
            request, entry, payload = line.split(b" ", 2)
            for inbox in self._open.get(request.decode(), ()):
                inbox.heard = now
                inbox.take(entry.decode(), payload)


class Follower:
    """A reader of one request's stream. Open it before submitting.

    `async with Follower(id, …) as follower: async for event in follower: …` ends after `Ended`;
    raises `Lost` when Redis has forgotten the request, and `NotKeptAnyMore` when its answer was
    to go early. `after` is the entry read last, by a reader who comes back; "" reads what is there
    already, from the beginning.
    """

    def __init__(
        self, request: UUID, listener: Listener, *, organization: int, after: str | None = None
    ) -> None:
        self.request = request
        self._organization = organization
        self.ended: Ended | None = None
        self._listener = listener
        self._inbox = listener.open(request)
        self._last = after or "0-0"
        self._order = entry_order(self._last)
        self._expected = self._order[0]
        self.stopped: Refused | None = None
        self._is_under_way = self._expected > 0
        self._clock = asyncio.get_running_loop().time
        self._silent_since = self._clock()
        if after is not None:
            self._inbox.put(_GAP)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.close(self.request, self._inbox)

    def stop(self, refusal: Refused) -> None:
        """The reader is refused from here on: what they read next raises it."""
        self.stopped = refusal
        self._inbox.put(_GAP)

    async def __aiter__(self) -> AsyncIterator[Event]:
        while self.ended is None:
            for event in await self._next():
                yield event
            _stop_if_cancelled()

    async def _next(self) -> list[Event]:
        entry, payload = await self._inbox.get()
        if self.stopped is not None:
            raise self.stopped
        if (entry, payload) == _GAP:
            return await self._catch_up()
        order = entry_order(entry)
        if order <= self._order:
            return []
        event = decode(entry, payload)
        follows = (
            event.position == self._expected
            if isinstance(event, Piece)
            else event.completion_tokens == self._expected
        )
        if not follows:
            return await self._catch_up()
        self._note(event, order)
        return [event]

    async def _catch_up(self) -> list[Event]:
        events = await self._read_on()
        if not events and await self._has_ended():
            events = await self._read_on()
            if not events:
                self._refuse_forgotten()
        if not events:
            self._refuse_silent()
        for event in events:
            self._refuse_another(event)
            self._note(event, entry_order(event.entry))
        return events

    async def _read_on(self) -> list[Event]:
        return await _read(self._organization, self.request, after=self._last)

    async def _has_ended(self) -> bool:
        """Whether the terminal event was written, be it since we last read. Raises `Lost`, or
        `NotKeptAnyMore` where the answer was booked before it was lost."""
        state = await kit_redis.async_state().hget(f"job:{self.request}", "state")
        if state is None:
            raise await in_thread(
                undelivered.made_good,
                organization=self._organization,
                request=self.request,
                heard=self._expected,
                now=datetime.now(UTC),
            )
        return state == b"done"

    def _refuse_forgotten(self) -> None:
        raise NotKeptAnyMore(
            f"The request {self.request} ended and was booked, but its answer is not kept any "
            "more: your organization keeps nothing of them (5 minutes)."
        )

    def _refuse_another(self, event: Event) -> None:
        """Where Redis lost the newest part of a stream, or forgot the request and it was sent again
        under its id, the stream goes on somewhere else than where we were: it runs, and is
        billed."""
        if self._is_under_way and isinstance(event, Piece) and event.position != self._expected:
            raise Lost(
                f"Part of the stream of the request {self.request} was lost while it was read. The "
                "request goes on and is billed once: read its answer from the beginning at "
                f"/api/v1/requests/{self.request}/stream; sent again, it would be another one."
            )

    def _refuse_silent(self) -> None:
        silent = self._clock() - self._silent_since
        if silent >= settings.SILENT_SECONDS:
            raise Silent(
                f"Nothing came of the request {self.request} for {settings.SILENT_SECONDS:g} s, as "
                "long as is waited. What came before is billed; try again, or run it in background."
            )

    def _note(self, event: Event, order: tuple[int, int]) -> None:
        self._silent_since = self._clock()
        self._is_under_way = True
        self._last, self._order = event.entry, order
        if isinstance(event, Piece):
            self._expected = event.position + len(event.tokens)
        else:
            self.ended = event


def _stop_if_cancelled() -> None:
    """A reader who left has left: before Python 3.12 `asyncio.wait_for`, under Redis's client,
    loses a cancellation that comes together with what it waits for."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def so_far(*, organization: int, request: UUID) -> list[Event]:
    """All of a stream that is there."""
    return await _read(organization, request, after="0-0")


async def _read(organization: int, request: UUID, *, after: str) -> list[Event]:
    stored = await kit_redis.async_state().xrange(f"stream:{request}", min=f"({after}")
    found = entries(stored)
    if not found:
        return []
    ring = await datakeys.aring(organization, needs=newest(found))
    try:
        return opened(found, ring.cipher(place(organization, request)), after=after)
    except Unreadable as error:
        raise NotKeptAnyMore(
            f"The answer of the request {request} cannot be read any more."
        ) from error
