"""Django's ASGI handler, for requests of the API without its threads.

Around each request Django runs its signals' receivers and the response's closing in a thread that
it starts for that request and ends after it. The event loop waits for that thread to start: for
milliseconds, beside an engine that fills the processors. A request of the API leaves these
receivers nothing to do (its work on the database gives its connection back itself, see
`kit.threads`), so they run where it is.
"""

import asyncio
from contextlib import suppress
from typing import IO, Any

from django.conf import settings
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, ASGIRequest, get_script_prefix
from django.core.signals import request_finished, request_started
from django.http import HttpResponseBase
from django.urls import set_script_prefix


class Handler(ASGIHandler):
    """Answers requests of the API in the event loop, pages as Django does."""

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        """One request, to the end of its answer or its client's leaving."""
        if not scope["path"].startswith(settings.API_PATHS):
            await super().handle(scope, receive, send)
            return
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        with body:
            response = await self._answered(scope, body, receive, send)
            if response is None:
                request_finished.send(sender=type(self))
            else:
                response.close()

    async def _answered(
        self, scope: Any, body: IO[bytes], receive: Any, send: Any
    ) -> HttpResponseBase | None:
        """What was answered; None if its client left before there was a response."""
        set_script_prefix(get_script_prefix(scope))
        request_started.send(sender=type(self), scope=scope)
        request, refusal = self.create_request(scope, body)
        if request is None:
            if refusal is not None:
                await self.send_response(refusal, send)
            return refusal
        answering = asyncio.create_task(self._answer(request, send))
        leaving = asyncio.create_task(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait((leaving, answering), return_when=asyncio.FIRST_COMPLETED)
        finally:
            answering.cancel()
            leaving.cancel()
        answered, left = await asyncio.gather(answering, leaving, return_exceptions=True)
        for error in (answered, left):
            if isinstance(error, BaseException) and not isinstance(error, _ENDS):
                raise error
        return answered if isinstance(answered, HttpResponseBase) else None

    async def _answer(self, request: ASGIRequest, send: Any) -> HttpResponseBase:
        response = await self.run_get_response(request)
        with suppress(asyncio.CancelledError):  # the client left; its response is closed still
            await self.send_response(response, send)
        return response


_ENDS = (asyncio.CancelledError, RequestAborted)
"""How a request of a client that left ends."""
