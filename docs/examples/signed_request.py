"""A signed request: RFC 9421 with Ed25519, for an API key that has a `signing_key`.

pip install http-message-signatures
python signed_request.py new-key private.pem            prints the signing_key to give the API key
API_KEY=aip_live_… python signed_request.py private.pem http://127.0.0.1:8000/v1/models
"""

import os
import secrets
import sys
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import Request, urlopen

from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from http_message_signatures import HTTPMessageSigner, HTTPSignatureKeyResolver, algorithms

COVERED = ("@method", "@authority", "@path", "@query")


@dataclass
class Mine(HTTPSignatureKeyResolver):
    """The one key that this program signs with."""

    private: Ed25519PrivateKey

    def resolve_private_key(self, key_id: str) -> Ed25519PrivateKey:
        """Whatever the id."""
        return self.private


@dataclass
class Message:
    """What is signed."""

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)


def headers(
    private: Ed25519PrivateKey, api_key: str, method: str, url: str, body: bytes | None = None
) -> dict[str, str]:
    """All that a request needs. Call it anew for each, retries too: a nonce is good once."""
    message = Message(method, url, {"Authorization": f"Bearer {api_key}"})
    signer = HTTPMessageSigner(signature_algorithm=algorithms.ED25519, key_resolver=Mine(private))
    signer.sign(
        message,
        key_id=api_key.split("_")[2],
        created=datetime.now(UTC),
        nonce=secrets.token_urlsafe(16),
        covered_component_ids=COVERED,
        body=body,  # adds Content-Digest and covers it
    )
    return message.headers


def public(private: Ed25519PrivateKey) -> str:
    """The API key's `signing_key`: 32 bytes in base64."""
    raw = private.public_key().public_bytes(form.Encoding.Raw, form.PublicFormat.Raw)
    return b64encode(raw).decode()


def new_key(path: Path) -> str:
    """Write a private key that its owner alone may read; its `signing_key`."""
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    return public(private)


def main(arguments: list[str]) -> None:
    """GET an address, signed; or make a key."""
    if arguments[0] == "new-key":
        print(new_key(Path(arguments[1])))
        return
    private = form.load_pem_private_key(Path(arguments[0]).read_bytes(), None)
    if not isinstance(private, Ed25519PrivateKey):
        raise SystemExit(f"{arguments[0]} holds no Ed25519 key.")
    url = arguments[1]
    asked = Request(url, headers=headers(private, os.environ["API_KEY"], "GET", url))
    with urlopen(asked) as answer:
        print(answer.read().decode())


if __name__ == "__main__":
    main(sys.argv[1:])
