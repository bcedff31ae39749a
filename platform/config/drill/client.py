"""A client that does what real ones do when things break: it comes back, and asks again."""

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any
from uuid import UUID, uuid4

import aiohttp

from config.drill.heard import LOST, Habit, Heard

_PAUSE = 0.2
_SILENCE = 0.5
"""From how long on waiting for the next token is a pause, in seconds."""
UNAVAILABLE = (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError, json.JSONDecodeError)
"""What a connection that breaks may raise."""
_FORGOTTEN = frozenset(
    {"request_lost", "request_not_found", "answer_not_kept", "generation_failed"}
)
_TURNED_AWAY = frozenset({"queue_full", "model_unavailable"})


class Gone(Exception):
    """The connection broke, or the platform said that it is away: come back."""


class Shed(Gone):
    """The request gave way to others in line; its message is its id. Send it again."""


class Forgotten(Exception):
    """The platform says that it lost the request, named if its id is known."""


class Turned(Exception):
    """The platform refused what it should have taken: nothing to come back for."""


class Client:
    """One request, seen through whatever happens.

    `plain`: who leaves has no Idempotency-Key, so it cannot find its request again should the
    connection break before it knows the id; for where nobody is killed.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        key: str,
        heard: Heard,
        chance: random.Random,
        *,
        plain: bool = False,
    ) -> None:
        self._session = session
        self._url = url
        self._heard = heard
        self._leaves_after = chance.randrange(1, 60)
        heard.plain = plain and heard.habit is Habit.LEAVE
        self._headers = {"Authorization": f"Bearer {key}"}
        if not heard.plain:
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
            except Turned as refusal:
                self._heard.reason = f"a refusal: {refusal}"
            except (Gone, *UNAVAILABLE) as error:
                if isinstance(error, Shed) and not self._heard.text:
                    self._heard.shed.append(self._heard.request or str(error))
                    self._heard.request = self._heard.entry = ""
                self._heard.breaks += 1
                self._heard.trouble = repr(error)[:300]
                await asyncio.sleep(_PAUSE)

    async def _stream(self) -> None:
        async with aclosing(self._events()) as events:
            async for _ in events:
                pass

    async def _hang_up(self) -> None:
        """Read a little and leave; then see, by its id, how it ended."""
        if not self._heard.request:
            await self._leave_early()
        await self._await_end()

    async def _cancel(self) -> None:
        if not self._heard.request:
            await self._leave_early()
        said = await self._json("POST", f"/api/v1/requests/{self._heard.request}/cancel")
        self._heard.is_cancelled |= said["cancelled"]
        await self._await_end()

    async def _leave_early(self) -> None:
        read = 0
        async with aclosing(self._events()) as events:
            async for _ in events:
                read += 1
                if read >= self._leaves_after:
                    break
        self._heard.left = time.monotonic()

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
            read = 0
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                data = json.loads(line[6:])
                if "error" in data:
                    _refuse_error(data)
                self._heard.request = str(UUID(data["id"].rpartition("-")[2]))
                choices = data.get("choices") or [{}]
                said = choices[0].get("delta", {}).get("content") or ""
                # A letter is a token to the echo model; of others each piece has one at least.
                is_echoed = self._heard.wish.expected is not None
                self._heard.left_at += len(said) if is_echoed else bool(said)
                read += 1
                if read >= self._leaves_after:
                    break
            response.close()
            self._heard.left = time.monotonic()

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
            if self._leaves_after % 2:
                await self._leave_early()  # which stops nothing: nobody has to read it
                await self._await_end()
                return
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

    async def _events(self) -> AsyncGenerator[None]:
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
    """Raise what the platform says: `Gone`, `Forgotten`, or `Turned`."""
    if response.status < 400:
        return
    said = await response.text()
    try:
        problem = json.loads(said)
    except ValueError as error:
        raise Gone(said) from error
    if response.status in (404, 410, 429, 500, 502, 503):
        _refuse_error(problem)
    raise Turned(f"{response.status} from {response.url.path}: {said[:300]}")


def is_lost(problem: dict[str, Any]) -> bool:
    """Whether that is what an error says, OpenAI's form or ours."""
    return problem.get("error", problem).get("code") in _FORGOTTEN


def _refuse_error(problem: dict[str, Any]) -> None:
    if is_lost(problem):
        raise Forgotten(problem.get("request_id", ""))
    if problem.get("error", problem).get("code") in _TURNED_AWAY:
        raise Shed(problem.get("request_id", ""))
    raise Gone(problem)
