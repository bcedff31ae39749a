"""Server-sent events (html.spec.whatwg.org/multipage/server-sent-events.html)."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
from django.http import StreamingHttpResponse

HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


def event(data: Any, *, name: str = "", entry: str = "") -> bytes:
    """One event: `id`, `event` and `data` lines, then a blank one."""
    head = (f"id: {entry}\n" if entry else "") + (f"event: {name}\n" if name else "")
    return head.encode() + b"data: " + orjson.dumps(data) + b"\n\n"


class EventStream(StreamingHttpResponse):
    """Iterates over its events themselves: Django's two generators around them cost as much as
    making an event does, and leave it to chance when the events are closed."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The events, once."""
        return self._iterator  # type: ignore[attr-defined, no-any-return]


def response(events: AsyncIterator[bytes], headers: Mapping[str, str]) -> StreamingHttpResponse:
    """A stream of events that no proxy shall hold back."""
    return EventStream(
        events, content_type="text/event-stream; charset=utf-8", headers={**HEADERS, **headers}
    )
