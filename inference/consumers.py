"""The WebSocket at /ws/v1/infer: many requests at once over one connection.

To us: {"type": "auth", "key": …} where the Authorization header can't be set,
       {"type": "infer", "id": …, "prompt": …, …}, {"type": "cancel", "id": …}, {"type": "ping"},
       {"type": "resume", "id": …, "request_id": …, "after": …}
To the client: ready, then for each request: started, token …, usage, done; or error. pong.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import orjson
import structlog
from channels.generic.websocket import AsyncWebsocketConsumer
from pydantic import Field

from inference.api.access import INFERENCE
from inference.api.forms import InferForm
from inference.api.infer import bill, prompt_wish, token
from inference.api.requests import entry, is_end
from inference.generation import Generation, generation, reading
from inference.idempotency import Repeatable
from inference.jobs import Leaving
from kit.edge import parse, problem_body, refusal_of
from kit.errors import Invalid, Refused
from kit.ids import request_id
from tenants.auth import Caller, authenticate
from tenants.watch import watched

_MOST_OPEN = 64
_AUTH_SECONDS = 10
_IDLE_SECONDS = 600
"""How long a connection may stay open while nothing is asked on it and nothing runs."""
_UNAUTHENTICATED = 4401
_FORBIDDEN = 4403
_IDLE = 4408
_TRY_AGAIN_LATER = 1013
_CODES = {400: _UNAUTHENTICATED, 401: _UNAUTHENTICATED, 403: _FORBIDDEN}
"""How a connection ends whose caller is refused, by the refusal's status."""

log = structlog.get_logger()


class AnyMessage(InferForm):
    """A message of any type; what else it may hold depends on the type."""

    type: Literal["auth", "infer", "resume", "cancel", "ping"]
    id: str | None = Field(None, min_length=1, max_length=64)
    key: str | None = None
    prompt: str = ""
    idempotency_key: str | None = None
    request_id: str | None = None
    after: str = ""


class InferConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """One connection: a caller, and the requests it has open."""

    async def connect(self) -> None:
        """Accept; a key that comes with the handshake is checked at once."""
        self._authorization: str | None = None
        self._open: dict[str, asyncio.Task[None]] = {}
        self._runs: dict[str, Generation] = {}
        self._busy_at = asyncio.get_running_loop().time()
        self._idle = self._look_again()
        self._no_key = asyncio.get_running_loop().call_later(_AUTH_SECONDS, self._give_up)
        self._closing: asyncio.Task[None] | None = None
        self._watch = ExitStack()
        self._is_over = False
        await self.accept()
        headers = dict(self.scope["headers"])
        if b"authorization" in headers:
            await self._authenticate(headers[b"authorization"].decode("latin1"))

    async def disconnect(self, code: int) -> None:
        """Whoever leaves has some seconds to come back and resume."""
        self._no_key.cancel()
        self._idle.cancel()
        self._watch.close()
        for task in list(self._open.values()):
            task.cancel()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """One message. A bad one is answered with an error; the connection stays."""
        if self._is_over:
            return  # It was under way when we hung up.
        identifier: str | None = None
        self._busy_at = asyncio.get_running_loop().time()
        try:
            message = parse(text_data if text_data is not None else bytes_data or b"", AnyMessage)
            identifier = message.id
            await self._obey(message)
        except Exception as error:
            await self._error(refusal_of(error), identifier)

    async def _obey(self, message: AnyMessage) -> None:
        match message.type:
            case "auth":
                await self._authenticate(f"Bearer {message.key or ''}")
            case "ping":
                await self._say(type="pong")
            case "infer":
                await self._infer(message)
            case "resume":
                await self._resume(message)
            case "cancel":
                await self._cancel(message.id)

    async def _authenticate(self, authorization: str) -> None:
        self._no_key.cancel()
        try:
            caller = await authenticate(authorization)
            caller.require(INFERENCE)
        except Exception as error:
            await self._end_refused(refusal_of(error))
            return
        self._authorization = authorization
        self._watch.close()
        self._watch.enter_context(watched(caller, scope=INFERENCE, stop=self._shut))
        await self._say(type="ready", organization=caller.slug)

    def _shut(self, refusal: Refused) -> None:
        """Whoever is refused from now on is told why, and the connection ends."""
        self._closing = asyncio.create_task(self._end_refused(refusal))

    async def _end_refused(self, refusal: Refused) -> None:
        await self._error(refusal, None)
        code = _CODES.get(refusal.status, _TRY_AGAIN_LATER)
        await self._hang_up(code, refusal.code)

    async def _hang_up(self, code: int, reason: str | None = None) -> None:
        if not self._is_over:
            self._is_over = True
            await self.close(code=code, reason=reason)

    def _look_again(self) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._end_if_idle)

    def _end_if_idle(self) -> None:
        idle = asyncio.get_running_loop().time() - self._busy_at
        if self._open or idle < _IDLE_SECONDS:
            self._idle = self._look_again()
        else:
            self._closing = asyncio.create_task(self._hang_up(_IDLE))

    def _give_up(self) -> None:
        self._closing = asyncio.create_task(self._hang_up(_UNAUTHENTICATED))

    async def _infer(self, message: AnyMessage) -> None:
        caller = await self._caller()
        request = request_id(datetime.now(UTC))
        name = message.id or str(request)
        body = message.model_dump_json(include=set(InferForm.model_fields), by_alias=True)
        form = parse(body, InferForm)
        repeatable = None
        if message.idempotency_key is not None:
            repeatable = Repeatable.of(
                message.idempotency_key, endpoint="ws.infer", body=body.encode()
            )

        @asynccontextmanager
        async def run() -> AsyncIterator[Generation]:
            wish = await prompt_wish(caller, form, endpoint="ws.infer", label=name)
            entered = generation(
                caller=caller,
                wish=wish,
                request=request,
                leaving=Leaving.LINGER,
                repeatable=repeatable,
            )
            async with entered as it:
                yield it

        self._begin(name, request, run())

    async def _resume(self, message: AnyMessage) -> None:
        caller = await self._caller()
        try:
            request = UUID(message.request_id)
        except (ValueError, TypeError) as error:
            raise Invalid(
                f"request_id: the id that `started` gave, not {message.request_id!r}.",
                param="request_id",
            ) from error
        after = entry(message.after)
        if is_end(after):
            raise Invalid(
                "after is the last event of a stream: nothing comes after it.", param="after"
            )
        self._begin(
            message.id or str(request),
            request,
            reading(caller=caller, request=request, after=after),
        )

    def _begin(
        self, name: str, request: UUID, run: AbstractAsyncContextManager[Generation]
    ) -> None:
        if name in self._open:
            raise Invalid(f"id: {name!r} is running on this connection already.", param="id")
        if len(self._open) >= _MOST_OPEN:
            raise Invalid(f"This connection has {_MOST_OPEN} open requests, the most it may.")
        task = asyncio.create_task(self._follow(run, name, request))
        self._open[name] = task
        task.add_done_callback(lambda _: self._open.pop(name, None))

    async def _caller(self) -> Caller:
        """Checked at each request, so that a revoked key ends here too."""
        caller = await authenticate(self._authorization, again=True)
        caller.require(INFERENCE)
        return caller

    async def _cancel(self, name: str | None) -> None:
        run = self._runs.get(name or "")
        if run is None:
            raise Invalid(f"id: no request {name!r} is open on this connection.", param="id")
        await run.cancel()

    async def _follow(
        self, entered: AbstractAsyncContextManager[Generation], name: str, request: UUID
    ) -> None:
        structlog.contextvars.bind_contextvars(request_id=str(request))
        try:
            async with entered as run:
                self._runs[name] = run
                await self._tell(run, name)
        except Exception as error:
            await self._error(refusal_of(error), name, str(request))
        finally:
            self._runs.pop(name, None)

    async def _tell(self, run: Generation, name: str) -> None:
        request = str(run.job.id)
        await self._say(type="started", id=name, request_id=request, model=run.job.model)
        async for piece in run.pieces():
            if piece.text:
                await self._say(type="token", id=name, **token(piece), entry=piece.entry)
        await self._say(type="usage", id=name, **bill(run.ended))
        reason = run.ended.reason
        await self._say(type="done", id=name, request_id=request, finish_reason=reason)

    async def _error(self, refusal: Refused, name: str | None, request: str = "") -> None:
        await self._say(type="error", id=name, error=problem_body(refusal, request))

    async def _say(self, **message: Any) -> None:
        if not self._is_over:
            await self.send(text_data=orjson.dumps(message).decode())
