"""An answer as a response's items and typed events, made from the pieces of its stream.

The same pieces give the same items, ids and numbers of events, whether they come as they are made,
are read again from Redis, or from the organization's schema.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from inference.api.access import cost
from inference.api.logprobs import token_logprobs
from inference.api.tools import Called, Reader, Said
from inference.engine import Text
from inference.responses import Found
from inference.stream import Ended, Piece
from kit.ids import made_at

Event = dict[str, Any]
STATES = {"stop": "completed", "cancelled": "cancelled", "length": "incomplete"}
STATES["timeout"] = "incomplete"
_LAST = {"completed": "completed", "failed": "failed"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a response says of how it was asked for."""

    request: UUID
    model: str
    echo: Mapping[str, Any]

    @classmethod
    def of(cls, found: Found) -> "Asked":
        """A response that is read again."""
        return cls(found.request, found.model, found.frame["echo"])

    def response(
        self,
        status: str,
        *,
        output: Sequence[Mapping[str, Any]] = (),
        ended: Ended | None = None,
        error: Mapping[str, Any] | None = None,
        at: datetime | None = None,
    ) -> dict[str, Any]:
        """OpenAI's object."""
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": name_of(self.request),
            "object": "response",
            "created_at": int(made_at(self.request).timestamp()),
            "completed_at": int(at.timestamp()) if at and status == "completed" else None,
            "status": status,
            "error": error,
            "incomplete_details": cut,
            "model": self.model,
            "output": [*output],
            "usage": None if ended is None else usage(ended),
            **self.echo,
        }


class Output:
    """Takes an answer's pieces and tells what they make; `items` is what there is of it.

    `text` is the model's, where the tokens' log-probabilities are wanted.
    """

    def __init__(self, request: UUID, *, tools: bool, text: Text | None = None) -> None:
        self.items: list[dict[str, Any]] = []
        self.ending: list[Event] = []
        """What came with the end, once it has come."""
        self._request = request.hex
        self._reader = Reader() if tools else None
        self._text = text
        self._logprobs: list[dict[str, Any]] = []
        self._open = False
        self._calls = 0

    def take(self, piece: Piece) -> Iterator[Event]:
        """What a piece makes."""
        if self._text is not None:
            self._logprobs += token_logprobs(self._text, [piece])
        said: Sequence[Said | Called] = [Said(piece.text)] if piece.text else []
        yield from self._take(said if self._reader is None else self._reader.feed(piece.text))

    def end(self, status: str) -> None:
        """The answer has ended."""
        self.ending += self._take([] if self._reader is None else self._reader.flush())
        if not self.items and status in {"completed", "incomplete"}:
            self.ending += self._begin_message()
        self.ending += self._close("completed" if status == "completed" else "incomplete")

    def _take(self, said: Sequence[Said | Called]) -> Iterator[Event]:
        for each in said:
            if isinstance(each, Said):
                yield from self._say(each.text)
            else:
                yield from self._call(each)

    def _say(self, text: str) -> Iterator[Event]:
        if not self._open or self.items[-1]["type"] != "message":
            yield from self._close("completed")
            yield from self._begin_message()
        [part] = self.items[-1]["content"]
        logprobs, self._logprobs = self._logprobs, []
        part["text"] += text
        part["logprobs"] += logprobs
        yield self._event(
            "response.output_text.delta",
            content_index=0,
            delta=text,
            logprobs=[*map(_brief, logprobs)],
        )

    def _begin_message(self) -> Iterator[Event]:
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        many = sum(item["type"] == "message" for item in self.items)
        message = {
            "id": f"msg_{self._request}" + (f"{many:02}" if many else ""),
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
        }
        yield from self._begin({**message, "content": []})
        self.items[-1]["content"] = [part]
        yield self._event("response.content_part.added", content_index=0, part=deepcopy(part))

    def _call(self, called: Called) -> Iterator[Event]:
        if called.name is not None:
            yield from self._close("completed")
            number = f"{self._request}{called.index:02}"
            item = {"id": f"fc_{number}", "type": "function_call", "call_id": f"call_{number}"}
            item |= {"name": called.name, "arguments": "", "status": "in_progress"}
            yield from self._begin(item)
            self._logprobs = []
        if called.arguments:
            self.items[-1]["arguments"] += called.arguments
            yield self._event("response.function_call_arguments.delta", delta=called.arguments)

    def _begin(self, item: dict[str, Any]) -> Iterator[Event]:
        self.items.append(item)
        self._open = True
        yield {
            "type": "response.output_item.added",
            "output_index": len(self.items) - 1,
            "item": deepcopy(item),
        }

    def _close(self, status: str) -> Iterator[Event]:
        if not self._open:
            return
        item, self._open = self.items[-1], False
        if item["type"] == "message":
            [part] = item["content"]
            text, logprobs = part["text"], [*map(_brief, part["logprobs"])]
            yield self._event(
                "response.output_text.done", content_index=0, text=text, logprobs=logprobs
            )
            yield self._event("response.content_part.done", content_index=0, part=deepcopy(part))
        else:
            yield self._event("response.function_call_arguments.done", arguments=item["arguments"])
        item["status"] = status
        yield {
            "type": "response.output_item.done",
            "output_index": len(self.items) - 1,
            "item": deepcopy(item),
        }

    def _event(self, kind: str, **fields: Any) -> Event:
        where = {"output_index": len(self.items) - 1, "item_id": self.items[-1]["id"]}
        return {"type": kind, **where, **fields}


def whole(found: Found, text: Text | None) -> dict[str, Any]:
    """A response that is read again, as far as it is."""
    asked, output = Asked.of(found), output_of(found, text)
    for piece in found.pieces:
        for _ in output.take(piece):
            pass
    if found.ended is None:
        return asked.response("queued" if found.waits else "in_progress", output=output.items)
    return finished(asked, output, found.ended, found.ended_at)


def output_of(found: Found, text: Text | None) -> Output:
    """Where its pieces go."""
    wanted = text if found.frame["logprobs"] else None
    return Output(found.request, tools=found.frame["tools"], text=wanted)


def finished(asked: Asked, output: Output, ended: Ended, at: datetime | None) -> dict[str, Any]:
    """A response that has ended, however it did; its output is told so."""
    status = status_of(ended)
    output.end(status)
    error = _failure(ended.error or "the worker failed") if status == "failed" else None
    return asked.response(status, output=output.items, ended=ended, error=error, at=at)


def status_of(ended: Ended) -> str:
    """In OpenAI's words; whatever is not known failed."""
    return STATES.get(ended.reason, "failed")


def _failure(said: str) -> dict[str, Any]:
    """OpenAI's error of a response."""
    message = f"The answer could not be finished: {said}. Nothing was charged; try again."
    return {"code": "server_error", "message": message}


def last_event(response: Mapping[str, Any]) -> Event:
    """The event that ends a stream; OpenAI has none for what was cancelled."""
    kind = _LAST.get(response["status"], "incomplete")
    return {"type": f"response.{kind}", "response": response}


def usage(ended: Ended) -> dict[str, Any]:
    """What was used, and what it cost."""
    return {
        "input_tokens": ended.prompt_tokens,
        "input_tokens_details": {"cached_tokens": ended.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": ended.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": ended.total_tokens,
        "cost": cost(ended.amount, ended.currency),
    }


def name_of(request: UUID) -> str:
    """A response's id."""
    return f"resp_{request.hex}"


async def numbered(
    events: AsyncIterator[Event], *, after: int | None = None
) -> AsyncIterator[Event]:
    """Each event with its number, those up to `after` left out."""
    number = 0
    async for event in events:
        if after is None or number > after:
            yield {**event, "sequence_number": number}
        number += 1


def _brief(logprob: Mapping[str, Any]) -> dict[str, Any]:
    """As events have it: without bytes."""
    top = [{"token": each["token"], "logprob": each["logprob"]} for each in logprob["top_logprobs"]]
    return {"token": logprob["token"], "logprob": logprob["logprob"], "top_logprobs": top}
