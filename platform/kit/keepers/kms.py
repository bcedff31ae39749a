"""AWS KMS as a keeper: the key-encryption key never leaves KMS. Needs the extra `kms`.

KMS rotates the key's material by itself and opens what older material has wrapped. Credentials are
found as AWS's own tools find them (environment, profile, the instance's or pod's role).
"""

import base64
from typing import Any
from urllib.parse import urlsplit

from kit.keepers import KeeperFailed

try:
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
except ImportError as missing:
    raise KeeperFailed(
        "KEY_ENCRYPTION names AWS KMS: install botocore (`pip install '.[kms]'`)."
    ) from missing


class Kms:
    """`kms://region/<key id, arn or alias/name>`; AWS_ENDPOINT_URL_KMS names another server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._key = parts.path.lstrip("/")
        if not parts.hostname or not self._key:
            raise KeeperFailed(f"KEY_ENCRYPTION: {url!r} must be kms://region/key.")
        self.name = f"kms:{parts.hostname}/{self._key}"
        config = Config(connect_timeout=3, read_timeout=5, retries={"max_attempts": 2})
        session = botocore.session.get_session()
        self._client: Any = session.create_client("kms", region_name=parts.hostname, config=config)

    def wrap(self, key: bytes, *, about: str) -> str:
        """See `Keeper`."""
        try:
            answer = self._client.encrypt(
                KeyId=self._key, Plaintext=key, EncryptionContext={"about": about}
            )
        except (BotoCoreError, ClientError) as error:
            raise KeeperFailed(f"KMS did not wrap {about}: {error}") from error
        return f"kms:{base64.b64encode(answer['CiphertextBlob']).decode()}"

    def unwrap(self, wrapped: str, *, about: str) -> bytes:
        """See `Keeper`."""
        blob = base64.b64decode(wrapped.removeprefix("kms:"))
        try:
            answer = self._client.decrypt(CiphertextBlob=blob, EncryptionContext={"about": about})
        except (BotoCoreError, ClientError) as error:
            raise KeeperFailed(f"KMS did not unwrap {about}: {error}") from error
        return bytes(answer["Plaintext"])

    def has_wrapped(self, wrapped: str) -> bool:
        """See `Keeper`."""
        return wrapped.startswith("kms:")

    def would_wrap_alike(self, wrapped: str) -> bool:
        """Only KMS knows."""
        return False
