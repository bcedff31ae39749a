"""Keepers of the key-encryption key, under which data keys are stored.

`settings.KEY_ENCRYPTION` names them, separated by commas. The first wraps; all unwrap, so that a
key, or a keeper, is replaced without a pause: put the new one first, run `manage.py keys rotate`,
and take the old one away.

    env                                       keys in KEY_ENCRYPTION_KEYS: `2:<base64>,1:<base64>`
    file:/run/secrets/kek                     the same, one a line, in a file
    vault+https://vault.example/transit/kek   HashiCorp Vault's transit engine; its token in
                                              VAULT_TOKEN, or in the file VAULT_TOKEN_FILE
    kms://eu-central-1/alias/kek              AWS KMS, by the credentials of the environment
"""

from functools import lru_cache
from typing import Protocol

from django.conf import settings


class KeeperFailed(Exception):
    """A keeper does not wrap or unwrap: not reachable, refused, or not the one that wrapped."""


class Keeper(Protocol):
    """Whoever has a key-encryption key. `about` is bound to the wrapped key: it must come back."""

    name: str

    def wrap(self, key: bytes, *, about: str) -> str:
        """A data key as it may be stored. Raises `KeeperFailed`."""

    def unwrap(self, wrapped: str, *, about: str) -> bytes:
        """The data key. Raises `KeeperFailed`."""

    def has_wrapped(self, wrapped: str) -> bool:
        """Whether this keeper can unwrap it, by the look of it."""

    def would_wrap_alike(self, wrapped: str) -> bool:
        """Whether it is under the newest key-encryption key; False where only the keeper knows."""


def wrap(key: bytes, *, about: str) -> str:
    """A data key under the newest key-encryption key."""
    return _keepers()[0].wrap(key, about=about)


def unwrap(wrapped: str, *, about: str) -> bytes:
    """A data key, by whichever keeper has wrapped it. Raises `KeeperFailed`."""
    for keeper in _keepers():
        if keeper.has_wrapped(wrapped):
            return keeper.unwrap(wrapped, about=about)
    raise KeeperFailed(
        f"No keeper in KEY_ENCRYPTION has the key-encryption key of "
        f"{wrapped.rpartition(':')[0][:80]!r}; name the one that wrapped it there as well."
    )


def is_current(wrapped: str) -> bool:
    """Whether rotating would change nothing."""
    return _keepers()[0].would_wrap_alike(wrapped)


def check() -> None:
    """Raise `KeeperFailed` unless keys that are wrapped now can be unwrapped again."""
    about = "a trial"
    if unwrap(wrap(bytes(32), about=about), about=about) != bytes(32):
        raise KeeperFailed("KEY_ENCRYPTION: what was wrapped came back as something else.")


def keeper(name: str) -> Keeper:
    """The keeper that a name in KEY_ENCRYPTION means. Raises `KeeperFailed` for what is none."""
    kind, _, where = name.strip().partition(":")
    match kind:
        case "env":
            from kit.keepers.local import Local, of_text

            return Local("env", of_text(settings.KEY_ENCRYPTION_KEYS, "KEY_ENCRYPTION_KEYS"))
        case "file":
            from kit.keepers.local import Local, of_file

            return Local("file", of_file(where))
        case "vault+https" | "vault+http":
            from kit.keepers.vault import Vault

            return Vault(name.strip().removeprefix("vault+"))
        case "kms":
            from kit.keepers.kms import Kms

            return Kms(name.strip())
    raise KeeperFailed(
        f"KEY_ENCRYPTION: {name!r} is no keeper; write env, file:/path, "
        "vault+https://host/transit/key or kms://region/key."
    )


def _keepers() -> list[Keeper]:
    return _named(settings.KEY_ENCRYPTION, settings.KEY_ENCRYPTION_KEYS)


@lru_cache(maxsize=4)
def _named(names: str, keys: str) -> list[Keeper]:
    return [keeper(name) for name in names.split(",")]
