"""A request's stream: what it delivered, in order, each token once, and one terminal event.

Durable in a Redis Stream a request, whose entry ids are positions (`<tokens so far>-<attempt>`);
live over one pub/sub channel a web process. Both are written by one script a step. What is kept is
sealed under the organization's data key; a live message is never kept (docs/adr/0008).
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from inference.engine import Delta, Logprob, Outcome
from inference.jobs import LEASES, SEALED
from kit.envelope import Cipher, Place, sealed_under
from kit.redis import Argument, Lua, state
from tenants import datakeys

_LUA = Path(__file__).parent / "lua"
_ALL, _LEVEL = b"all", 1
"""The field of an entry that has all pieces, and how hard it is pressed."""
END = "9007199254740991-0"
"""The id of the terminal event, the largest there can be (lua/end.lua)."""
LOST = b"lost"
"""What `end` replies where there is no such request any more."""
LONG = 96
"""Entries from which on a stream is made one entry when it is whole. Redis sets 4 KiB aside for the
smallest one, so fewer would take as much."""
_APPEND, _END, _COMPACT = (Lua(_LUA / f"{name}.lua") for name in ("append", "end", "compact"))


class Piece(NamedTuple):
    """Tokens of an answer. `entry` orders it in its stream; `position` counts the tokens before.

    `logprobs` has one for each token if the request asked for them. A tuple: web processes make one
    for each event of each stream, and a frozen dataclass takes six times as long to be made.
    """

    entry: str
    position: int
    tokens: tuple[int, ...]
    text: str
    logprobs: tuple[Logprob, ...] = ()
    choice: int = 0
    """Of which answer, where a request asked for several; positions count the tokens of all."""
    end: str = ""
    """How that answer ended, if it did while others went on."""


@dataclass(frozen=True, slots=True)
class Part(Delta):
    """A delta of one of several answers: which one, and how it ended if it did."""

    choice: int = 0
    end: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """The terminal event: what the request came to, as booked."""

    entry: str
    reason: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    amount: int
    currency: str
    error: str
    cache: str = ""
    reasoning_tokens: int = 0
    answer: str = ""
    """What a cache finds it by, where one may."""

    @property
    def total_tokens(self) -> int:
        """Prompt and answer."""
        return self.prompt_tokens + self.completion_tokens


Event = Piece | Ended
Entries = list[tuple[bytes, dict[bytes, bytes]]]


def place(organization: int, request: UUID) -> Place:
    """Where a stream's entries belong."""
    return Place(organization, "stream", str(request))


def append(step: Sequence[tuple[UUID | str, int, Delta, Cipher | None]]) -> list[str]:
    """Write one step: (request, attempt, delta, cipher of its stream) of each, sealing those with
    an outcome. Only what has text needs a cipher.

    Returns for each a `jobs.Verdict`, or the reason for which the request is to be cancelled.
    """
    arguments: list[Argument] = []
    for request, attempt, delta, cipher in step:
        live = _payload(delta)
        if live and cipher is None:
            raise ValueError(f"the stream of {request} has no cipher")
        kept = cipher.seal(live) if live and cipher else b""
        arguments += [str(request), attempt, delta.position, len(delta.tokens), live, kept]
        arguments.append(_seal(delta.outcome) if delta.outcome is not None else b"")
    return [reply.decode() for reply in _APPEND([LEASES, SEALED], arguments)]


def end(pipe: Any, *, request: UUID, event: Ended) -> None:
    """Queue the script that writes the terminal event; once, whoever repeats it."""
    said: dict[str, Any] = {
        "reason": event.reason,
        "prompt_tokens": event.prompt_tokens,
        "cached_tokens": event.cached_tokens,
        "completion_tokens": event.completion_tokens,
        "amount": event.amount,
        "currency": event.currency,
        "error": event.error,
        "reasoning_tokens": event.reasoning_tokens,
    }
    found = {"cache": event.cache, "answer": event.answer}
    payload = orjson.dumps(said | {name: value for name, value in found.items() if value})
    keys = [f"job:{request}", f"stream:{request}", SEALED]
    _END.add(pipe, keys, [str(request), payload, event.reason])


def read(organization: int, request: UUID) -> list[Event]:
    """All of a stream that is there, for threads. Raises `kit.envelope.Unreadable`."""
    found = entries(state().xrange(f"stream:{request}"))
    ring = datakeys.ring(organization, needs=newest(found))
    return opened(found, ring.cipher(place(organization, request)))


def compact(request: UUID, cipher: Cipher) -> bool:
    """Keep the pieces of a sealed request's answer as one entry; whether that was done.

    It expands to what they were, under their ids: who reads on from any of them misses nothing.
    """
    found = entries(state().xrange(f"stream:{request}"))
    pieces = [each for each in opened(found, cipher) if isinstance(each, Piece)]
    if len(pieces) < LONG:
        return False
    sealed = cipher.seal(zlib.compress(packed(pieces), _LEVEL))
    keys = [f"job:{request}", f"stream:{request}"]
    return bool(_COMPACT(keys, [len(pieces), pieces[-1].entry, sealed]))


def texts_of(events: Sequence[Event], *, count: int = 1) -> list[str]:
    """The text of each answer so far, of at least `count`."""
    texts = [""] * count
    for piece in (event for event in events if isinstance(event, Piece)):
        texts += [""] * (piece.choice + 1 - len(texts))
        texts[piece.choice] += piece.text
    return texts


def emitted(organization: int, request: UUID, choice: int = 0) -> tuple[int, ...]:
    """The tokens of an answer delivered so far, for the worker that takes over."""
    tokens: list[int] = []
    for event in read(organization, request):
        tokens += event.tokens if isinstance(event, Piece) and event.choice == choice else ()
    return tuple(tokens)


def packed(pieces: Sequence[Piece]) -> bytes:
    """Pieces, to be kept elsewhere than in the stream."""
    return orjson.dumps([[piece.entry, _spelled(piece)] for piece in pieces])


def unpacked(stored: bytes) -> list[Piece]:
    """What `packed` made."""
    return [_piece(entry, data) for entry, data in orjson.loads(stored)]


def newest(found: Entries) -> int:
    """The version of the data key that these entries need."""
    stored = chain.from_iterable(fields.values() for _, fields in found)
    return max((sealed_under(each) for each in stored if not _is_clear(each)), default=0)


def opened(found: Entries, cipher: Cipher, *, after: str = "0-0") -> list[Event]:
    """Entries of a durable stream behind one of its pieces, as what they say."""
    events: list[Event] = []
    for entry, fields in found:
        if _ALL in fields:
            pieces = unpacked(zlib.decompress(cipher.unseal(fields[_ALL])))
            read = entry_order(after)
            events += (piece for piece in pieces if entry_order(piece.entry) > read)
        else:
            events.append(decode(entry.decode(), _open(fields[b"d"], cipher)))
    return events


def _open(stored: bytes, cipher: Cipher) -> bytes:
    return stored if _is_clear(stored) else cipher.unseal(stored)


def _is_clear(stored: bytes) -> bool:
    """The terminal event, which has nothing of the answer."""
    return stored.startswith(b"{")


def entry_order(entry: str) -> tuple[int, int]:
    """An entry's id as numbers: tokens so far, and attempt. Raises ValueError."""
    first, _, second = entry.partition("-")
    return int(first), int(second)


def entries(reply: Any) -> Entries:
    """XRANGE's reply, typed: our clients give bytes."""
    return reply or []


def decode(entry: str, payload: bytes) -> Event:
    """A line of the live channel, or an entry of the durable stream that was opened."""
    data = orjson.loads(payload)
    if "reason" in data:
        return Ended(entry=entry, **data)
    return _piece(entry, data)


def _piece(entry: str, data: Mapping[str, Any]) -> Piece:
    logprobs: tuple[Logprob, ...] = ()
    if "l" in data:
        logprobs = tuple(
            Logprob(logprob, tuple((token, each) for token, each in top))
            for logprob, top in data["l"]
        )
    choice, end = data.get("c", 0), data.get("e", "")
    return Piece(entry, data["p"], tuple(data["t"]), data["x"], logprobs, choice, end)


def _payload(delta: Delta) -> bytes:
    if not delta.tokens and not delta.text:
        return b""
    return orjson.dumps(_spelled(delta))


def _spelled(of: Delta | Piece) -> dict[str, Any]:
    data: dict[str, Any] = {"p": of.position, "t": of.tokens, "x": of.text}
    if of.logprobs:
        data["l"] = [(each.logprob, each.top) for each in of.logprobs]
    if isinstance(of, Part | Piece):
        data["c"], data["e"] = of.choice, of.end
    return data


def _seal(outcome: Outcome) -> bytes:
    """In the order in which the script reads it."""
    return orjson.dumps(
        [
            outcome.reason.value,
            outcome.error,
            outcome.prompt_tokens,
            outcome.cached_tokens,
            outcome.cache,
            outcome.reasoning_tokens,
            outcome.answer,
        ]
    )
