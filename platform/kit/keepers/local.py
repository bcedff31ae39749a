"""Key-encryption keys that this host has: in the environment, or in a file."""

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kit.envelope import KEY_BYTES
from kit.keepers import KeeperFailed

_NONCE_BYTES = 12


class Local:
    """AES-256-GCM under the first of `keys`; the others open what they have wrapped."""

    def __init__(self, name: str, keys: Mapping[str, bytes]) -> None:
        self.name = name
        self._keys = {number: AESGCM(key) for number, key in keys.items()}
        self._newest = next(iter(keys))

    def wrap(self, key: bytes, *, about: str) -> str:
        """See `Keeper`."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._keys[self._newest].encrypt(nonce, key, about.encode())
        return f"local:{self._newest}:{base64.b64encode(sealed).decode()}"

    def unwrap(self, wrapped: str, *, about: str) -> bytes:
        """See `Keeper`."""
        _, number, text = wrapped.split(":", 2)
        sealed = base64.b64decode(text)
        try:
            return self._keys[number].decrypt(
                sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], about.encode()
            )
        except InvalidTag:
            raise KeeperFailed(
                f"The key-encryption key {number!r} is not the one that wrapped {about}, or the "
                "wrapped key is another's."
            ) from None

    def has_wrapped(self, wrapped: str) -> bool:
        """See `Keeper`."""
        kind, number = wrapped.split(":")[:2]
        return kind == "local" and number in self._keys

    def would_wrap_alike(self, wrapped: str) -> bool:
        """See `Keeper`."""
        return wrapped.startswith(f"local:{self._newest}:")


def of_text(text: str, source: str) -> dict[str, bytes]:
    """`2:<base64>,1:<base64>` or one a line, newest first. Raises `KeeperFailed`."""
    found: dict[str, bytes] = {}
    for each in text.replace(",", "\n").split():
        number, _, key = each.partition(":")
        try:
            found[number] = base64.b64decode(key + "=" * (-len(key) % 4), altchars=b"-_")
        except binascii.Error:
            found[number] = b""
        if not number or len(found[number]) != KEY_BYTES:
            raise KeeperFailed(
                f"{source}: write each key as NUMBER:BASE64 of {KEY_BYTES} bytes, newest first; "
                "`manage.py keys generate` makes one."
            )
    if not found:
        raise KeeperFailed(f"{source} has no key; `manage.py keys generate` makes one.")
    return found


def of_file(path: str) -> dict[str, bytes]:
    """The keys in a file. Raises `KeeperFailed`."""
    try:
        return of_text(Path(path).read_text(), path)
    except OSError as error:
        raise KeeperFailed(f"KEY_ENCRYPTION: {path}: {error.strerror}.") from error
