"""Idempotency-Key: the same key and body are one request, however often they are sent.

The key is tied to a request id for a day. Who sends it again finds the request, in flight or
ended, and reads its stream; if it never got in (it was refused, or its web process died first) it
is admitted now, under the same id: whatever repeats an admission, admits once.
"""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import cast
from uuid import UUID

from inference.jobs import KEPT_LONG_SECONDS
from kit.idempotency import KeyReused, checked
from kit.redis import Lua, async_state

_TIE_ANEW = Lua(Path(__file__).parent / "lua" / "tie_anew.lua")


@dataclass(frozen=True, slots=True)
class Repeatable:
    """A request that may be sent again: its key, and what it asks."""

    key: str
    fingerprint: str

    @classmethod
    def of(cls, key: str, *, endpoint: str, body: bytes) -> "Repeatable":
        """Raises `Invalid` for a key that is none."""
        return cls(checked(key), sha256(endpoint.encode() + b"\0" + body).hexdigest())


async def tie(repeatable: Repeatable, *, organization: int, request: UUID) -> UUID:
    """The id under which it runs: `request`, or that of the first time. Raises `KeyReused`."""
    name = _name(organization, repeatable)
    mine = f"{repeatable.fingerprint} {request}"
    # SET NX GET: what stood there before, or nothing where ours stands now (Redis 7).
    before = cast(
        "bytes | None",
        await async_state().set(name, mine, nx=True, get=True, ex=KEPT_LONG_SECONDS),
    )
    if before is None:
        return request
    fingerprint, _, first = before.decode().partition(" ")
    if fingerprint != repeatable.fingerprint:
        raise KeyReused.of(repeatable.key)
    return UUID(first)


async def tie_anew(
    repeatable: Repeatable, *, organization: int, first: UUID, request: UUID
) -> UUID:
    """Tie the key to `request` in place of `first`, which came to nothing.

    The id under which it runs: another's, if that one was quicker.
    """
    tied = await _TIE_ANEW.arun(
        [_name(organization, repeatable)],
        [
            f"{repeatable.fingerprint} {first}",
            f"{repeatable.fingerprint} {request}",
            KEPT_LONG_SECONDS,
        ],
    )
    return UUID(tied.decode().partition(" ")[2])


def _name(organization: int, repeatable: Repeatable) -> str:
    return f"idempotency:{organization}:{sha256(repeatable.key.encode()).hexdigest()}"
