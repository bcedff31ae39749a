"""A client that does what real ones do when things break: it comes back, and asks again."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

import aiohttp

_PAUSE = 0.2
_SILENCE = 0.5
"""From how long on waiting for the next token is a pause, in seconds."""
UNAVAILABLE = (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError, json.JSONDecodeError)
"""What a connection that breaks may raise."""
LOST = "lost"
"""How a request ended that the state Redis forgot."""
_FORGOTTEN = frozenset(
    {"request_lost", "request_not_found", "answer_not_kept", "generation_failed"}
)


class Habit(StrEnum):
    """How a client behaves."""

    STREAM = "stream"
    SOCKET = "socket"
    WHOLE = "whole"
    BACKGROUND = "background"
    HANG_UP = "hang up"
    CANCEL = "cancel"
    TWICE = "twice"
    """Asks the same twice at once, under one Idempotency-Key."""
    BATCH = "batch"
    """A line of a batch; see `config.drill.batches`."""
    LEAVE = "leave"
    """A plain client of OpenAI's endpoint that closes its connection and never comes back."""


RETURNING = tuple(habit for habit in Habit if habit is not Habit.LEAVE)
READING = frozenset({Habit.STREAM, Habit.SOCKET})
"""Whose clients hear each token as it comes."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked; `expected` is its answer, where that is known beforehand."""

    prompt: str
    expected: str | None
    sampling: dict[str, Any]


@dataclass
class Heard:
    """One request as its client knows it."""

    habit: Habit
    organization: str
    wish: Wish
    request: str = ""
    text: str = ""
    reason: str = ""
    usage: dict[str, int] = field(default_factory=dict)
    entry: str = ""
    breaks: int = 0
    lost: list[str] = field(default_factory=list)
    """Requests that it was told were lost, before or in this one's place."""
    twins: set[str] = field(default_factory=set)
    """The requests under which the same was answered."""
    left_at: int = 0
    """How many tokens had come when its client left for good."""
    pauses: list[tuple[float, float]] = field(default_factory=list)
    """When nothing came in the middle of the answer: from, to (`time.monotonic`)."""

    @property
    def problem(self) -> str:
        """What is wrong with what was heard, or ""."""
        if self.reason == LOST:
            return "was lost"
        expected = self.wish.expected
        if self.habit in (Habit.HANG_UP, Habit.CANCEL, Habit.LEAVE):
            said = expected is None or expected.startswith(self.text)
            return "" if said else "heard what was never said"
        if self.reason not in ("stop", "length"):
            return f"ended with {self.reason or 'nothing'}"
        return "" if expected is None or self.text == expected else "a gap or a repeat"


class Gone(Exception):
    """The connection broke, or the platform said that it is away: come back."""


class Forgotten(Exception):
    """The platform says that it lost the request, named if its id is known."""


class Client:
    """One request, seen through whatever happens."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        key: str,
        heard: Heard,
        chance: random.Random,
    ) -> None:
        self._session = session
        self._url = url
        self._heard = heard
        self._leaves_after = chance.randrange(1, 60)
        self._headers = {"Authorization": f"Bearer {key}"}
        if heard.habit is not Habit.LEAVE:
            self._headers["Idempotency-Key"] = uuid4().hex
        self._key = key
        self._token_at: float | None = None

    async def see_through(self) -> None:
        """Again and again, until the request has ended."""
        once: dict[Habit, Callable[[], Any]] = {
            Habit.STREAM: self._stream,
            Habit.SOCKET: self._socket,
            Habit.WHOLE: self._whole,
            Habit.TWICE: self._twice,
            Habit.BACKGROUND: self._background,
            Habit.HANG_UP: self._hang_up,
            Habit.CANCEL: self._cancel,
            Habit.LEAVE: self._leave,
        }
        while not self._heard.reason:
            try:
                await once[self._heard.habit]()
            except Forgotten as lost:
                self._note_lost(str(lost))
            except (Gone, *UNAVAILABLE):
                self._heard.breaks += 1
                await asyncio.sleep(_PAUSE)

    async def _stream(self) -> None:
        async for _ in self._events():
            pass

    async def _hang_up(self) -> None:
        """Read a little and leave; then see, by its id, how it ended."""
        if not self._heard.request:
            await self._leave_early()
        await self._await_end()

    async def _cancel(self) -> None:
        if not self._heard.request:
            await self._leave_early()
        await self._json("POST", f"/api/v1/requests/{self._heard.request}/cancel")
        await self._await_end()

    async def _leave_early(self) -> None:
        read = 0
        async for _ in self._events():
            read += 1
            if read >= self._leaves_after:
                return

    async def _leave(self) -> None:
        """Close the connection in the middle of an answer of OpenAI's endpoint."""
        if not self._heard.request:
            await self._read_and_close()
        await self._await_end()

    async def _read_and_close(self) -> None:
        url = f"{self._url}/v1/chat/completions"
        body = {
            "messages": [{"role": "user", "content": self._heard.wish.prompt}],
            "stream": True,
            **self._heard.wish.sampling,
        }
        async with self._session.post(url, headers=self._headers, json=body) as response:
            await check(response)
            self._heard.request = str(UUID(response.headers["X-Request-ID"]))
            read = 0
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                choices = json.loads(line[6:]).get("choices") or [{}]
                self._heard.left_at += len(choices[0].get("delta", {}).get("content") or "")
                read += 1
                if read >= self._leaves_after:
                    break
            response.close()

    async def _whole(self) -> None:
        data = await self._json("POST", "/api/v1/infer", self._body())
        self._note_end(data)
        self._heard.text = data["text"]

    async def _twice(self) -> None:
        both = [self._json("POST", "/api/v1/infer", self._body()) for _ in range(2)]
        found = await asyncio.gather(*both, return_exceptions=True)
        answers = [each for each in found if not isinstance(each, BaseException)]
        self._heard.twins |= {data["request_id"] for data in answers}
        for refusal in (each for each in found if isinstance(each, BaseException)):
            raise refusal
        for data in answers:
            self._note_end(data)
            self._heard.text = data["text"]

    async def _background(self) -> None:
        if not self._heard.request:
            data = await self._json("POST", "/api/v1/infer", {**self._body(), "background": True})
            self._heard.request = data["request_id"]
        await self._stream()

    async def _await_end(self) -> None:
        while True:
            data = await self._json("GET", f"/api/v1/requests/{self._heard.request}")
            if data["state"] == "done" and "usage" not in data:
                raise Forgotten
            if data["state"] == "done":
                self._note_end(data)
                self._heard.text = data["text"]
                return
            await asyncio.sleep(_PAUSE)

    async def _events(self) -> AsyncIterator[None]:
        """The request's events, from where this client was."""
        if self._heard.request:
            path = f"/api/v1/requests/{self._heard.request}/stream?after={self._heard.entry}"
            sent = self._session.get(self._url + path, headers=self._headers)
        else:
            path = "/api/v1/infer/stream"
            sent = self._session.post(self._url + path, headers=self._headers, json=self._body())
        async with sent as response:
            await check(response)
            entry = ""
            async for line in response.content:
                if line.startswith(b"id: "):
                    entry = line[4:].strip().decode()
                elif line.startswith(b"data: "):
                    self._note(json.loads(line[6:]), entry)
                    entry = ""
                    yield
        if not self._heard.reason:
            raise Gone

    async def _socket(self) -> None:
        address = f"{self._url.replace('http', 'ws')}/ws/v1/infer"
        headers = {"Authorization": f"Bearer {self._key}"}
        async with self._session.ws_connect(address, headers=headers) as socket:
            await socket.send_json(self._first_message())
            async for message in socket:
                data = json.loads(message.data)
                if data["type"] == "error":
                    _refuse_error(data["error"])
                if data["type"] != "ready":
                    self._note(data, data.get("entry", ""))
                if self._heard.reason:
                    return
        raise Gone

    def _first_message(self) -> dict[str, Any]:
        if self._heard.request:
            return {
                "type": "resume",
                "id": "a",
                "request_id": self._heard.request,
                "after": self._heard.entry,
            }
        again = self._headers["Idempotency-Key"]
        return {"type": "infer", "id": "a", "idempotency_key": again, **self._body()}

    def _note(self, data: dict[str, Any], entry: str) -> None:
        if "status" in data and "code" in data:
            _refuse_error(data)
        self._heard.request = data.get("request_id", self._heard.request)
        self._heard.entry = entry or self._heard.entry
        self._heard.usage = data.get("usage", self._heard.usage)
        self._heard.reason = data.get("finish_reason", self._heard.reason)
        if text := data.get("text", ""):
            self._heard.text += text
            now = time.monotonic()
            if self._token_at is not None and now - self._token_at > _SILENCE:
                self._heard.pauses.append((self._token_at, now))
            self._token_at = now

    def _note_lost(self, request: str) -> None:
        """Who waited for the whole answer sends it again, anew; the others take note."""
        is_whole = self._heard.habit in (Habit.WHOLE, Habit.TWICE)
        if name := request if is_whole else self._heard.request or request:
            self._heard.lost.append(name)
        if is_whole:
            self._headers["Idempotency-Key"] = uuid4().hex
        else:
            self._heard.reason = LOST

    def _note_end(self, data: dict[str, Any]) -> None:
        self._heard.request = data["request_id"]
        self._heard.usage = data["usage"]
        self._heard.reason = data["finish_reason"]

    def _body(self) -> dict[str, Any]:
        return {"prompt": self._heard.wish.prompt, **self._heard.wish.sampling}

    async def _json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        url, headers = self._url + path, self._headers
        async with self._session.request(method, url, headers=headers, json=body) as response:
            await check(response)
            found: dict[str, Any] = await response.json()
            return found


async def check(response: aiohttp.ClientResponse) -> None:
    """Raise `Gone` or `Forgotten` where that is what the platform says."""
    if response.status < 400:
        return
    said = await response.text()
    try:
        problem = json.loads(said)
    except ValueError as error:
        raise Gone(said) from error
    if response.status in (404, 410, 429, 500, 502, 503):
        _refuse_error(problem)
    raise RuntimeError(f"{response.status} from {response.url}: {said}")


def is_lost(problem: dict[str, Any]) -> bool:
    """Whether that is what an error says, OpenAI's form or ours."""
    return problem.get("error", problem).get("code") in _FORGOTTEN


def _refuse_error(problem: dict[str, Any]) -> None:
    if is_lost(problem):
        raise Forgotten(problem.get("request_id", ""))
    raise Gone(problem)
