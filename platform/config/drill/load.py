"""Clients that do what real ones do when things break: they come back, and ask again.

The echo model answers with its prompt, so each client knows what it must have heard.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import uuid4

import aiohttp

_PAUSE = 0.2
_READ_SECONDS = 20
_UNAVAILABLE = (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError, json.JSONDecodeError)


class Habit(StrEnum):
    """How a client behaves."""

    STREAM = "stream"
    SOCKET = "socket"
    WHOLE = "whole"
    BACKGROUND = "background"
    HANG_UP = "hang up"
    CANCEL = "cancel"


@dataclass
class Heard:
    """One request as its client knows it."""

    habit: Habit
    organization: str
    prompt: str
    request: str = ""
    text: str = ""
    reason: str = ""
    usage: dict[str, int] = field(default_factory=dict)
    entry: str = ""
    breaks: int = 0

    @property
    def problem(self) -> str:
        """What is wrong with what was heard, or ""."""
        if self.habit in (Habit.HANG_UP, Habit.CANCEL):
            return "" if self.prompt.startswith(self.text) else "heard what was never said"
        if self.reason != "stop":
            return f"ended with {self.reason or 'nothing'}"
        return "" if self.text == self.prompt else "a gap or a repeat"


class Gone(Exception):
    """The connection broke, or the platform said that it is away: come back."""


class Crowd:
    """Clients of some organizations, each one request after another until told to stop."""

    def __init__(self, url: str, keys: dict[str, str], *, seed: int, size: int) -> None:
        self.heard: list[Heard] = []
        self._url = url
        self._keys = keys
        self._random = random.Random(seed)  # noqa: S311  a drill that can be repeated
        self._size = size
        self._clients = size
        self.over = False

    async def run(self) -> None:
        """Until `over`, and every request begun has come to its end."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=_READ_SECONDS)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            await asyncio.gather(*(self._client(session) for _ in range(self._clients)))

    async def _client(self, session: aiohttp.ClientSession) -> None:
        while not self.over:
            organization = self._random.choice(sorted(self._keys))
            habit = self._random.choice(list(Habit))
            length = self._random.randrange(200, 1500)
            heard = Heard(habit, organization, _words(self._random, length))
            self.heard.append(heard)
            client = Client(session, self._url, self._keys[organization], heard, self._random)
            await client.see_through()


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
        self._headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": uuid4().hex}
        self._key = key

    async def see_through(self) -> None:
        """Again and again, until the request has ended."""
        once: dict[Habit, Callable[[], Any]] = {
            Habit.STREAM: self._stream,
            Habit.SOCKET: self._socket,
            Habit.WHOLE: self._whole,
            Habit.BACKGROUND: self._background,
            Habit.HANG_UP: self._hang_up,
            Habit.CANCEL: self._cancel,
        }
        while not self._heard.reason:
            try:
                await once[self._heard.habit]()
            except (Gone, *_UNAVAILABLE):
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

    async def _whole(self) -> None:
        data = await self._json("POST", "/api/v1/infer", self._body())
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
            await _check(response)
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
                    raise Gone(data)
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
            raise Gone(data)
        self._heard.request = data.get("request_id", self._heard.request)
        self._heard.text += data.get("text", "")
        self._heard.entry = entry or self._heard.entry
        self._heard.usage = data.get("usage", self._heard.usage)
        self._heard.reason = data.get("finish_reason", self._heard.reason)

    def _note_end(self, data: dict[str, Any]) -> None:
        self._heard.request = data["request_id"]
        self._heard.usage = data["usage"]
        self._heard.reason = data["finish_reason"]

    def _body(self) -> dict[str, Any]:
        return {"prompt": self._heard.prompt, "max_tokens": 2000, "temperature": 0}

    async def _json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        url, headers = self._url + path, self._headers
        async with self._session.request(method, url, headers=headers, json=body) as response:
            await _check(response)
            found: dict[str, Any] = await response.json()
            return found


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status in (429, 500, 502, 503):
        raise Gone(response.status)
    if response.status >= 400:
        raise RuntimeError(f"{response.status} from {response.url}: {await response.text()}")


def _words(chance: random.Random, length: int) -> str:
    """Text in which a gap or a repeat shows: no two places alike."""
    words: list[str] = []
    size = 0
    while size < length:
        words.append(f"{len(words)}:{chance.randrange(10**6)}")
        size += len(words[-1]) + 1
    return " ".join(words)
