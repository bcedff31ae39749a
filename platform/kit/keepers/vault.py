"""HashiCorp Vault's transit engine as a keeper: the key-encryption key never leaves Vault.

Vault rotates it (`vault write -f transit/keys/NAME/rotate`) and still opens what older versions
have wrapped; `manage.py keys rotate` then brings the data keys to the newest version. The token
needs `update` on `encrypt/NAME` and `decrypt/NAME`, nothing else.
"""

import base64
import os
from pathlib import Path
from urllib.parse import urlsplit

import hvac
import requests
from hvac.exceptions import VaultError

from kit.keepers import KeeperFailed

_TIMEOUT = 5.0


class Vault:
    """`https://host:8200/<mount>/<key>`; certificates are checked, by VAULT_CACERT if set."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        mount, _, key = parts.path.strip("/").rpartition("/")
        if not parts.hostname or not mount or not key:
            raise KeeperFailed(f"KEY_ENCRYPTION: {url!r} must be https://host/transit/key.")
        self.name = f"vault:{parts.netloc}/{mount}/{key}"
        self._mount, self._key = mount, key
        self._url = f"{parts.scheme}://{parts.netloc}"

    def wrap(self, key: bytes, *, about: str) -> str:
        """See `Keeper`."""
        plain = base64.b64encode(key).decode()
        try:
            answer = self._transit().encrypt_data(
                name=self._key,
                plaintext=plain,
                mount_point=self._mount,
                associated_data=_about(about),
            )
        except (VaultError, requests.RequestException) as error:
            raise KeeperFailed(f"Vault did not wrap {about}: {error}") from error
        return str(answer["data"]["ciphertext"])

    def unwrap(self, wrapped: str, *, about: str) -> bytes:
        """See `Keeper`."""
        try:
            answer = self._transit().decrypt_data(
                name=self._key,
                ciphertext=wrapped,
                mount_point=self._mount,
                associated_data=_about(about),
            )
        except (VaultError, requests.RequestException) as error:
            raise KeeperFailed(f"Vault did not unwrap {about}: {error}") from error
        return base64.b64decode(answer["data"]["plaintext"])

    def has_wrapped(self, wrapped: str) -> bool:
        """See `Keeper`."""
        return wrapped.startswith("vault:v")

    def would_wrap_alike(self, wrapped: str) -> bool:
        """Only Vault knows which version is its newest."""
        return False

    def _transit(self) -> "hvac.api.secrets_engines.Transit":
        """With the token of now: agents renew the file's."""
        file = os.environ.get("VAULT_TOKEN_FILE")
        token = Path(file).read_text().strip() if file else os.environ.get("VAULT_TOKEN")
        client = hvac.Client(url=self._url, token=token, timeout=_TIMEOUT)
        return client.secrets.transit


def _about(about: str) -> str:
    return base64.b64encode(about.encode()).decode()
