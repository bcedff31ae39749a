"""What the web server adds to uvicorn: a request's head must arrive in time, and within a size.

uvicorn waits without end for the first line of a connection, and reads headers without end: a crowd
that opens connections and says nothing, or a letter a minute, would hold them all, and one that
does not stop to speak all memory.
"""

import asyncio
from datetime import UTC, datetime
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kit.edge import rendered
from kit.errors import Refused
from kit.ids import request_id

HEAD_SECONDS = 15.0
HEAD_BYTES = 64 * 1024


class HeadTooLarge(Refused):
    """Its address and headers together."""

    status, code = 431, "request_head_too_large"


class Punctual(HttpToolsProtocol):
    """Closes a connection whose next request's head takes longer than `HEAD_SECONDS`, or has more
    than `HEAD_BYTES`."""

    _waiting: asyncio.TimerHandle | None = None
    _head = _arrived = 0
    url = b""
    _refused = _in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request's time runs."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """With its first byte the next request's time runs."""
        answered = self.cycle is None or self.cycle.response_complete
        if self._waiting is None and answered and not self._in_body:
            self._wait()
        if self._refused:
            return
        super().data_received(data)
        if self._waiting is not None and not self._in_body:  # A head, and not whole yet.
            self._arrived += len(data)
            self._refuse_if_larger(self._arrived)

    def on_message_begin(self) -> None:
        """A head of its own."""
        self._head = self._arrived = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Part of the head."""
        self._head += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Part of the head."""
        self._head += len(name) + len(value) + 4
        if self._head <= HEAD_BYTES:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """In time, and small enough."""
        self._stop_waiting()
        self._in_body = True
        self._refuse_if_larger(self._head)
        if not self._refused:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Of a request that was taken in."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Of a request that was taken in."""
        self._in_body = False
        if not self._refused:
            super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _stop_waiting(self, *_: Any) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _refuse_if_larger(self, size: int) -> None:
        if size <= HEAD_BYTES or self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._stop_waiting()
        identifier = str(request_id(datetime.now(UTC)))
        refusal = HeadTooLarge(
            f"The request's address and headers have more than {HEAD_BYTES:,} bytes; send less."
        )
        path = self.url.decode("ascii", "replace")
        status, headers, content = rendered(path, refusal, identifier)
        headers |= {"Connection": "close", "Content-Length": str(len(content))}
        lines = [f"HTTP/1.1 {status} Request Header Fields Too Large"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.transport.write("\r\n".join([*lines, "\r\n"]).encode() + content)
        self.transport.close()

    def _give_up(self) -> None:
        self._waiting = None
        if not self.transport.is_closing():
            self.transport.close()
