"""A chat completion from a server that speaks OpenAI's API, streamed; the one place that calls it.

Only the configured base URL is called: no redirect is followed, no proxy of the environment used.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import aiohttp
import orjson
from aiohttp.http import HttpProcessingError

from inference.catalog.offers import Remote
from kit import outbound

CONNECT_SECONDS = 5.0
SILENT_SECONDS = 60.0
"""How long a server may say nothing, before its first token and between any two."""
RETRIES = 2
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
_LONGEST_LINE = 1 << 18


class Kind(StrEnum):
    """Why a call came to nothing."""

    unreachable = "unreachable"
    silent = "silent"
    busy = "busy"
    broken = "broken"
    """An error of the server's, a stream that ends early or makes no sense."""
    refused = "refused"
    """This request does not fit the server; the next may."""
    denied = "denied"
    """None of ours is welcome there: a key that is none, a model it does not have."""
    redirected = "redirected"
    unset = "unset"


_RETRIED = {Kind.unreachable, Kind.silent, Kind.busy, Kind.broken}


class RemoteFailed(Exception):
    """What a call came to, for the request's history; never holds the key or an address."""

    def __init__(self, kind: Kind, message: str, *, after: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.after = after


@dataclass(frozen=True, slots=True)
class Usage:
    """The server's own count."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event of the stream; `thought` is thinking that its server tells apart."""

    text: str = ""
    thought: str = ""
    finish: str | None = None
    usage: Usage | None = None


def session() -> aiohttp.ClientSession:
    """For all calls of an event loop."""
    return aiohttp.ClientSession(
        connector=outbound.connector(limit=0, ttl_dns_cache=60),
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS
        ),
        read_bufsize=_LONGEST_LINE,
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def stream(
    client: aiohttp.ClientSession,
    remote: Remote,
    body: Mapping[str, Any],
    *,
    label: str,
    retried: Callable[[Kind], None],
) -> AsyncIterator[Chunk]:
    """The answer's events; raises `RemoteFailed`.

    What fails before its first text is tried again, at most `RETRIES` times and not at once;
    what breaks later is not, for the rest would be another answer's. `label` goes with the call
    as its X-Request-ID.
    """
    for attempt in range(RETRIES + 1):
        said = False
        try:
            async for chunk in _once(client, remote, body, label):
                said = said or bool(chunk.text)
                yield chunk
            return
        except RemoteFailed as failure:
            if said or attempt == RETRIES or failure.kind not in _RETRIED:
                raise
            retried(failure.kind)
            await asyncio.sleep(_pause(attempt, failure.after))


def _pause(attempt: int, asked: float | None) -> float:
    """Seconds until the next try: what the server asks, or twice as long each time, blurred."""
    usual = _FIRST_PAUSE * (1 << attempt) * random.uniform(0.75, 1.25)  # noqa: S311  no secret
    return min(_LONGEST_PAUSE, usual if asked is None else max(asked, usual))


async def _once(
    client: aiohttp.ClientSession, remote: Remote, body: Mapping[str, Any], label: str
) -> AsyncIterator[Chunk]:
    try:
        async with client.post(
            f"{remote.url}/chat/completions",
            data=orjson.dumps(body),
            headers=_headers(remote, label),
            allow_redirects=False,
        ) as response:
            await _check(response)
            async for chunk in _events(response.content):
                yield chunk
    except aiohttp.ConnectionTimeoutError as error:
        raise RemoteFailed(Kind.unreachable, "the model's server is not reachable") from error
    except TimeoutError as error:
        raise RemoteFailed(Kind.silent, "the model's server did not answer in time") from error
    except aiohttp.ClientConnectorError as error:
        if "OUTBOUND_NETWORKS" in str(error.os_error):
            raise RemoteFailed(
                Kind.denied,
                "the model's server has an address that may not be called; the operator may allow "
                "it in OUTBOUND_NETWORKS",
            ) from error
        raise RemoteFailed(Kind.unreachable, "the model's server is not reachable") from error
    except aiohttp.InvalidURL as error:
        raise RemoteFailed(Kind.unreachable, "the model's server is not reachable") from error
    except (aiohttp.ClientError, OSError) as error:
        raise RemoteFailed(Kind.broken, "the model's server broke off") from error


def _headers(remote: Remote, label: str) -> dict[str, str]:
    headers = {
        "Content-Type": "application/json",
        "Accept": "text/event-stream",
        "X-Request-ID": label,
    }
    if remote.secret:
        key = os.environ.get(remote.secret)
        if not key:
            raise RemoteFailed(Kind.unset, f"the worker has no {remote.secret} in its environment")
        headers["Authorization"] = f"Bearer {key}"
    return headers


async def _check(response: aiohttp.ClientResponse) -> None:
    """Raise for what is no stream."""
    status = response.status
    if status == 200:
        if response.content_type != "text/event-stream":
            raise RemoteFailed(Kind.broken, "the model's server answered with no stream")
        return
    said = f"the model's server answered {status}"
    if status == 429:
        raise RemoteFailed(Kind.busy, said, after=_after(response))
    if status >= 500 or status == 408:
        raise RemoteFailed(Kind.broken, said, after=_after(response))
    if 300 <= status < 400:
        raise RemoteFailed(Kind.redirected, f"{said}, a redirect, which is not followed")
    if status in {400, 413, 422}:
        said += _reason(await response.content.read(4096))
        raise RemoteFailed(Kind.refused, said)
    raise RemoteFailed(Kind.denied, said)


def _after(response: aiohttp.ClientResponse) -> float | None:
    asked = response.headers.get("Retry-After", "")
    return float(asked) if asked.isdigit() else None


def _reason(content: bytes) -> str:
    """What the server says is wrong with the request: its caller can mend it."""
    try:
        message = orjson.loads(content)["error"]["message"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
    return f": {str(message)[:200]}"


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[Chunk]:
    """Server-sent events, to `[DONE]`."""
    ended = False
    while line := await _line(content):
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            await _drain(content)
            return
        chunk = _chunk(data)
        ended = ended or chunk.finish is not None
        yield chunk
    if not ended:
        raise RemoteFailed(Kind.broken, "the model's server broke off")


async def _line(content: aiohttp.StreamReader) -> bytes:
    try:
        return await content.readline()
    except (ValueError, HttpProcessingError) as error:
        raise RemoteFailed(Kind.broken, "the model's server sent too long a line") from error


async def _drain(content: aiohttp.StreamReader) -> None:
    """The end of the body usually comes with the last event: then the connection serves again."""
    try:
        async with asyncio.timeout(0.05):
            await content.read(1)
    except TimeoutError:
        return


def _chunk(data: bytes) -> Chunk:
    try:
        event = orjson.loads(data)
        if event.get("error"):
            raise RemoteFailed(Kind.broken, "the model's server reported an error")
        choice = next(iter(event.get("choices") or ()), None) or {}
        delta = choice.get("delta") or {}
        text = delta.get("content") or ""
        thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
        if not isinstance(text, str) or not isinstance(thought, str):
            raise TypeError("content is no text")
        return Chunk(text, thought, choice.get("finish_reason"), _usage(event.get("usage")))
    except (orjson.JSONDecodeError, AttributeError, TypeError, ValueError) as error:
        raise RemoteFailed(Kind.broken, "the model's server sent what is no event") from error


def _usage(found: Any) -> Usage | None:
    if not found:
        return None
    details = found.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=int(found.get("prompt_tokens") or 0),
        completion_tokens=int(found.get("completion_tokens") or 0),
        cached_tokens=int(details.get("cached_tokens") or 0),
    )
