"""Taking in requests: so many connections from one address, bodies whole, within a size and a time,
before Django sees the request; and answers that their reader does not take in time are cut off."""

import asyncio
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
_TRY_AGAIN_LATER = 1013


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
                await self._app(scope, _replay(body, receive), _impatient(send))
        except Gone:
            return
        except Refused as refusal:
            await _refuse(scope, send, refusal)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        announced = _content_length(scope)
        if announced > settings.BODY_LIMIT:
            raise too_large(announced)
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                return await _read(receive)
        except TimeoutError as error:
            raise TooSlow(
                f"The body did not arrive within {_BODY_SECONDS} s; send it in one go."
            ) from error


def counted(app: App) -> App:
    """An application of sockets that takes only so many from one address."""

    async def count(scope: Scope, receive: Receive, send: Send) -> None:
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


def _address(scope: Scope) -> str:
    return str(origin.of_scope(scope).address)


def _impatient(send: Send) -> Send:
    async def send_soon(message: Message) -> None:
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await send(message)
        except TimeoutError as error:
            raise Gone from error

    return send_soon


async def _read(receive: Receive) -> bytes:
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        part = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(part)
        if size > settings.BODY_LIMIT:
            raise too_large(size)
        parts.append(part)
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
