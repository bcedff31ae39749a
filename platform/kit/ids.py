"""Identifiers the server makes: UUIDv7, so that they sort, and partition, by time."""

import secrets
from datetime import UTC, datetime
from hashlib import sha256
from uuid import UUID

_RANDOM_BITS = 74


def request_id(now: datetime) -> UUID:
    """A new UUIDv7 (RFC 9562 §5.7) whose leading 48 bits are `now` in Unix milliseconds."""
    return _uuid7(now, secrets.randbits(_RANDOM_BITS))


def first_id(at: datetime) -> UUID:
    """The smallest UUIDv7 of that millisecond: the border between what came before and after."""
    return _uuid7(at, 0)


def named_id(at: datetime, name: str) -> UUID:
    """The UUIDv7 of that millisecond that stands for `name`: the same whenever it is asked for."""
    random = int.from_bytes(sha256(name.encode()).digest(), "big") >> (256 - _RANDOM_BITS)
    return _uuid7(at, random)


def made_at(identifier: UUID) -> datetime:
    """When a UUIDv7 was made, to the millisecond."""
    return datetime.fromtimestamp((identifier.int >> 80) / 1000, UTC)


def _uuid7(at: datetime, random: int) -> UUID:
    milliseconds = int(at.timestamp() * 1000)
    high, low = random >> 62, random & ((1 << 62) - 1)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low)
