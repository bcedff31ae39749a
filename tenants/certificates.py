"""Statements of the platform that can be checked without it: JSON, signed with Ed25519 (RFC 8032).

The signature is over the statement as JSON with sorted keys, no spaces and characters as they are.
The signing key is derived from SECRET_KEY; publish `public_key()` where customers find it.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.conf import settings


def sign(statement: Mapping[str, Any]) -> dict[str, Any]:
    """The statement with its signature and the key that checks it."""
    signature = _private().sign(_canonical(statement))
    return {
        "statement": dict(statement),
        "algorithm": "Ed25519",
        "signature": base64.b64encode(signature).decode(),
        "public_key": public_key(),
    }


def is_genuine(certificate: Mapping[str, Any], *, key: str) -> bool:
    """Whether the holder of `key` (as `public_key` shows it) signed this very statement."""
    try:
        signature = base64.b64decode(str(certificate["signature"]), validate=True)
        checker = Ed25519PublicKey.from_public_bytes(base64.b64decode(key, validate=True))
        checker.verify(signature, _canonical(certificate["statement"]))
    except (InvalidSignature, KeyError, TypeError, ValueError, binascii.Error):
        return False
    return True


def public_key() -> str:
    """The platform's, 32 bytes in base64."""
    raw = _private().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return base64.b64encode(raw).decode()


def _private() -> Ed25519PrivateKey:
    seed = sha256(f"certificates:{settings.SECRET_KEY}".encode()).digest()
    return Ed25519PrivateKey.from_private_bytes(seed)


def _canonical(statement: Mapping[str, Any]) -> bytes:
    text = json.dumps(statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()
