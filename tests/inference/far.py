"""Another server that speaks OpenAI's API, with faults on demand."""

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from threading import Event, Thread
from typing import Any

from aiohttp import web

WORDS = ("one", " two", " three", " four")


class FarServer:
    """Answers each chat with `WORDS`, an event a word, on a port and thread of its own.

    `faults` are taken one a request: "" for none, a status to answer with, or cut, garbage, error,
    silent, hold, endless-line, html, redirect, unended, nothing, gated (until `open`), miscount,
    thinks (two events of thinking first, three tokens read from a cache).
    """

    def __init__(self) -> None:
        self.seen: list[tuple[Mapping[str, str], dict[str, Any]]] = []
        self.left = Event()
        self.faults: deque[str] = deque()
        self.url = ""
        self._ready = Event()
        self._loop = asyncio.new_event_loop()
        self._over, self._gate = asyncio.Event(), asyncio.Event()
        self._thread = Thread(target=self._run, name="far server")

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join(10)

    def open(self) -> None:
        """Let the gated go on."""
        self._loop.call_soon_threadsafe(self._gate.set)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_post("/elsewhere", self._answer)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._ready.set()
        await self._over.wait()
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((dict(request.headers), await request.json()))
        fault = self.faults.popleft() if self.faults else ""
        if fault.isdigit():
            body = {"error": {"message": "too long by half", "code": "x"}}
            return web.json_response(body, status=int(fault), headers={"Retry-After": "0"})
        if fault == "redirect":
            raise web.HTTPTemporaryRedirect("/elsewhere")
        if fault == "html":
            return web.Response(text="<p>hello</p>", content_type="text/html")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            await self._say(request, response, fault)
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise
        return response

    async def _say(self, request: web.Request, response: web.StreamResponse, fault: str) -> None:
        await _send(response, {"choices": [{"index": 0, "delta": {"role": "assistant"}}]})
        await response.write(b": still here\n\n")
        if fault == "silent":
            await asyncio.sleep(60)
        if fault == "nothing":
            request.transport.abort()  # type: ignore[union-attr]
        for thought in ("hm", " so") if fault == "thinks" else ():
            delta = {"reasoning_content": thought}
            await _send(response, {"choices": [{"index": 0, "delta": delta}]})
        for number, word in enumerate(WORDS):
            if number == 2 and fault:
                await self._break(request, response, fault)
            await _send(response, {"choices": [{"index": 0, "delta": {"content": word}}]})
        if fault == "unended":
            return
        await _send(response, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        count = 400 if fault == "miscount" else len(WORDS)
        usage = {"prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count}
        details = {"prompt_tokens_details": {"cached_tokens": 3}} if fault == "thinks" else {}
        await _send(response, {"choices": [], "usage": {**usage, **details}})
        await response.write(b"data: [DONE]\n\n")

    async def _break(self, request: web.Request, response: web.StreamResponse, fault: str) -> None:
        match fault:
            case "cut":
                await asyncio.sleep(0.05)
                request.transport.abort()  # type: ignore[union-attr]
            case "garbage":
                await response.write(b"data: {not json\n\n")
            case "error":
                await _send(response, {"error": {"message": "secret plans"}})
            case "endless-line":
                await response.write(b"data: " + b"x" * (1 << 20))
            case "gated":
                await self._gate.wait()
            case "hold":
                await asyncio.sleep(60)


async def _send(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
