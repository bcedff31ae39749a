"""Taking in requests: so many connections from one address, bodies whole, within a size and a time,
before Django sees the request; and answers that their reader does not take in time are cut off."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from django.conf import settings

from kit import origin
from kit.connections import TooManyConnections, connection
from kit.edge import TooSlow, rendered, too_large
from kit.errors import Refused
from kit.ids import request_id

Message = Mapping[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_BODY_SECONDS = 30
_SEND_SECONDS = 60
"""How long a reader may take nothing of an answer before it is cut off."""
_TRY_AGAIN_LATER, _NOT_SO = 1013, 1008
_FILES = "/v1/files"


_BYTES_PER_ADDRESS = 64 * 1024 * 1024
"""Of bodies that are still arriving, in one web process."""
_arriving: Counter[str] = Counter()


class TooMuchAtOnce(Refused):
    """One address sends as much as many do; what has arrived makes room."""

    status, code = 429, "too_much_at_once"


class Gone(Exception):
    """The client left, or reads no more."""


class Intake:
    """Reads the body, then lets the application read it from memory."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request whose body is here, or refuse it."""
        try:
            with connection(_address(scope)):
                body = await self._body(scope, receive)
                impatient = _Impatient(send)
                try:
                    await self._app(scope, _replay(body, receive), impatient)
                finally:
                    impatient.close()
        except Gone:
            return
        except Refused as refusal:
            await _refuse(scope, send, refusal)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        address, announced = _address(scope), _content_length(scope)
        limit = _limit(scope)
        if announced > limit:
            raise too_large(announced, limit)
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                return await _read(receive, limit, address)
        except TimeoutError as error:
            raise TooSlow(
                f"The body did not arrive within {_BODY_SECONDS} s; send it in one go."
            ) from error


def counted(app: App) -> App:
    """An application of sockets that takes only so many from one address, and in production none
    in the clear."""

    async def count(scope: Scope, receive: Receive, send: Send) -> None:
        if settings.SECURE_SSL_REDIRECT and scope["scheme"] != "wss":
            await send({"type": "websocket.close", "code": _NOT_SO, "reason": "Use wss://."})
            return
        try:
            with connection(_address(scope)):
                await app(scope, receive, send)
        except TooManyConnections as refusal:
            await send(
                {
                    "type": "websocket.close",
                    "code": _TRY_AGAIN_LATER,
                    "reason": refusal.message[:120],
                }
            )

    return count


def _limit(scope: Scope) -> int:
    """The most bytes of a body: more for files."""
    is_file = scope["path"] == _FILES and scope.get("method") == "POST"
    return settings.FILE_LIMIT if is_file else settings.BODY_LIMIT


def _address(scope: Scope) -> str:
    return origin.counted_as(origin.of_scope(scope).address)


class _Impatient:
    """Sends, and cuts off a reader that takes nothing for too long.

    One timer a connection, not one a message: it looks when the send that waits now began.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._began: float | None = None
        self._sender: asyncio.Task[Any] | None = None
        self._late = False
        self._timer = self._loop.call_later(_SEND_SECONDS, self._look)

    async def __call__(self, message: Message) -> None:
        self._began = self._loop.time()
        if self._sender is None:  # one task sends all of an answer
            self._sender = asyncio.current_task()
        try:
            await self._send(message)
        except asyncio.CancelledError as error:
            if self._late and self._sender is not None:
                self._sender.uncancel()
                raise Gone from error
            raise
        finally:
            self._began = None

    def close(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        due = (now if self._began is None else self._began) + _SEND_SECONDS
        if due > now:
            self._timer = self._loop.call_at(due, self._look)
        elif self._sender is not None:
            self._late = True
            self._sender.cancel()


async def _read(receive: Receive, limit: int, address: str) -> bytes:
    parts, size, more = [], 0, True
    try:
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Gone
            part = message.get("body", b"")
            more = message.get("more_body", False)
            size += len(part)
            _arriving[address] += len(part)
            if size > limit:
                raise too_large(size, limit)
            if _arriving[address] > _BYTES_PER_ADDRESS:
                raise TooMuchAtOnce(
                    f"The address {address} sends more than {_BYTES_PER_ADDRESS:,} bytes at once; "
                    "send fewer bodies beside one another.",
                    retry_after=1,
                )
            parts.append(part)
    finally:
        _arriving[address] -= size
        if _arriving[address] <= 0:
            del _arriving[address]
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _content_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


async def _refuse(scope: Scope, send: Send, refusal: Refused) -> None:
    identifier = str(request_id(datetime.now(UTC)))
    status, headers, content = rendered(scope["path"], refusal, identifier)
    headers |= {"X-Request-ID": identifier, "Connection": "close"}
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": content})
