"""Sealing bytes under a data key, so that they open only where they belong.

A sealed text is one byte of form, the data key's version, a random nonce and AES-256-GCM's output.
Each row has a key of its own, HMAC-SHA256(data key, place): so no key seals enough messages for
random nonces to meet (NIST SP 800-38D §8.3), and a text that is moved to another row, column or
organization does not open there. The place is authenticated as well.
"""

import hmac
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
_MARK_BYTES = 12
_HEADER = struct.Struct(">BI")
_FORM = 1


class Unreadable(Exception):
    """A sealed text that does not open: altered, moved, or its data key is gone."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a text belongs: an organization (0: the platform), what it is, and its row."""

    organization: int
    column: str
    row: str

    def encode(self) -> bytes:
        """Unambiguous, whatever is in it: each part is preceded by its length."""
        parts = [each.encode() for each in (str(self.organization), self.column, self.row)]
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


@dataclass(frozen=True, slots=True)
class Ring:
    """An organization's data keys by version; the highest seals, all open."""

    keys: Mapping[int, bytes] = field(repr=False)

    def seal(self, plain: bytes, place: Place) -> bytes:
        """The text for this place."""
        return self.cipher(place).seal(plain)

    def unseal(self, sealed: bytes, place: Place) -> bytes:
        """What was sealed for this place. Raises `Unreadable`."""
        return self.cipher(place).unseal(sealed)

    def cipher(self, place: Place) -> "Cipher":
        """For many texts of one place, like a stream's."""
        return Cipher(self, place)

    def marker(self, place: Place) -> "Marker":
        """What finds a text again without saying it."""
        return Marker(self, place)


class Cipher:
    """Seals and opens the texts of one place."""

    def __init__(self, ring: Ring, place: Place) -> None:
        self._ring = ring
        self._place = place.encode()
        self._current = max(ring.keys)
        self._header = _HEADER.pack(_FORM, self._current)
        self._about = self._header + self._place
        self._by_version = {self._current: _row_key(ring.keys[self._current], self._place)}

    def seal(self, plain: bytes) -> bytes:
        """As stored."""
        nonce = os.urandom(_NONCE_BYTES)
        text = self._by_version[self._current].encrypt(nonce, plain, self._about)
        return self._header + nonce + text

    def unseal(self, sealed: bytes) -> bytes:
        """What was sealed. Raises `Unreadable`."""
        version = sealed_under(sealed)
        opener = self._by_version.get(version)
        if opener is None:
            if version not in self._ring.keys:
                raise Unreadable(f"The data key of version {version} is gone.")
            opener = self._by_version[version] = _row_key(self._ring.keys[version], self._place)
        header, rest = sealed[: _HEADER.size], sealed[_HEADER.size :]
        try:
            return opener.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], header + self._place)
        except InvalidTag:
            raise Unreadable("The text was altered, or belongs elsewhere.") from None


class Marker:
    """Marks of texts: equal for equal texts under one data key, and noise without it."""

    def __init__(self, ring: Ring, place: Place) -> None:
        versions = sorted(ring.keys, reverse=True)
        self._keys = [hmac.digest(ring.keys[each], place.encode(), sha256) for each in versions]

    def mark(self, plain: str | bytes) -> bytes:
        """HMAC-SHA256 under the newest data key, cut to 12 bytes."""
        return _mark(self._keys[0], plain)

    def marks(self, plain: str | bytes) -> list[bytes]:
        """All that it may have been given: under every data key that there is."""
        return [_mark(key, plain) for key in self._keys]


def sealed_under(sealed: bytes) -> int:
    """The version of the data key that a text needs. Raises `Unreadable` for what is none."""
    if len(sealed) < _HEADER.size + _NONCE_BYTES + _TAG_BYTES or sealed[0] != _FORM:
        raise Unreadable("This is no sealed text.")
    return int(_HEADER.unpack_from(sealed)[1])


def _mark(key: bytes, plain: str | bytes) -> bytes:
    text = plain.encode() if isinstance(plain, str) else plain
    return hmac.digest(key, text, sha256)[:_MARK_BYTES]


def _row_key(key: bytes, place: bytes) -> AESGCM:
    return AESGCM(hmac.digest(key, place, sha256))
