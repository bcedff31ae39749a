"""Requests that their sender signs, by RFC 9421 (HTTP Message Signatures) with Ed25519.

A key with a `signing_key` opens nothing by itself: each request must be signed by the private key
that never leaves its owner, cover what the request says, be fresh, and come once. What a thief
finds in a log or a proxy is then worth nothing.
"""

from base64 import b64decode
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from http_message_signatures import (
    HTTPMessageVerifier,
    HTTPSignatureKeyResolver,
    InvalidSignature,
    algorithms,
)
from http_message_signatures.exceptions import HTTPMessageSignaturesException

from kit import origin
from kit.errors import Refused
from kit.redis import async_state

WINDOW = timedelta(seconds=300)
"""How old a signature may be."""
SKEW = timedelta(seconds=5)
"""How far the client's clock may be ahead."""
COVERED = ("@method", "@authority", "@path", "@query")
"""What every signature covers; with a body its `content-digest` too (RFC 9530)."""
_SHORTEST_NONCE, _LONGEST_NONCE = 8, 256


class BadSignature(Refused):
    """A request that is not signed as its API key wants it, or that was sent before."""

    status, code = 401, "invalid_signature"


@dataclass(frozen=True, slots=True)
class _Resolver(HTTPSignatureKeyResolver):
    """Knows one key."""

    key: str
    public: Ed25519PublicKey

    def resolve_public_key(self, key_id: str) -> Ed25519PublicKey:
        """Of the API key that is used."""
        if key_id != self.key:
            raise InvalidSignature(f"keyid is the API key's public id, {self.key!r}")
        return self.public


class _Message:
    """A request as the library reads it."""

    def __init__(self, sent: origin.Sent) -> None:
        self.method = sent.method
        self.url = sent.url
        self.headers = _Headers(sent.headers)


class _Headers(dict[str, str]):
    """Fields by name; those sent several times are joined as RFC 9110 §5.3 says."""

    def __init__(self, pairs: tuple[tuple[str, str], ...]) -> None:
        super().__init__()
        for name, value in pairs:
            lower = name.lower()
            self[lower] = f"{self[lower]}, {value}" if lower in self else value


async def check(key: str, signing_key: str) -> None:
    """Refuse the running request unless the key's owner signed it, just now, and it is the first.

    `signing_key` is the Ed25519 public key in base64. Raises `BadSignature`, whose header
    `Accept-Signature` (RFC 9421 §5) says what to sign.
    """
    sent = origin.current().sent
    if sent is None:
        raise _bad(key, "this connection cannot carry one")
    nonce = _verified(key, signing_key, sent())
    name = f"nonce:{key}:{sha256(nonce.encode()).hexdigest()[:32]}"
    kept = int((WINDOW + 2 * SKEW).total_seconds())
    if not await async_state().set(name, b"1", nx=True, ex=kept):
        raise _bad(key, "its nonce was used before; sign each request anew, retries too")


def _verified(key: str, signing_key: str, sent: origin.Sent) -> str:
    """The nonce of a request whose signature holds."""
    public = Ed25519PublicKey.from_public_bytes(b64decode(signing_key))
    verifier = HTTPMessageVerifier(
        signature_algorithm=algorithms.ED25519, key_resolver=_Resolver(key, public)
    )
    verifier.max_clock_skew = SKEW
    message = _Message(sent)
    if "signature-input" not in message.headers:
        raise _bad(key, "there is none (the header Signature-Input is missing)")
    try:
        [result] = verifier.verify(
            message, max_age=WINDOW, require_components=COVERED, body=sent.body
        )
    except HTTPMessageSignaturesException as error:
        raise _bad(key, str(error) or "it does not fit the request") from error
    nonce = str(result.nonce or "")
    if not _SHORTEST_NONCE <= len(nonce) <= _LONGEST_NONCE:
        raise _bad(key, f"its nonce has {_SHORTEST_NONCE} to {_LONGEST_NONCE} characters")
    return nonce


def _bad(key: str, why: str) -> BadSignature:
    covered = " ".join(f'"{name}"' for name in (*COVERED, "content-digest"))
    wanted = f'sig1=({covered});created;nonce;alg="ed25519";keyid="{key}"'
    return BadSignature(
        f"This API key's requests must be signed (RFC 9421, Ed25519), but {why}. Cover @method, "
        "@authority, @path, @query and, with a body, content-digest; say created, nonce and keyid.",
        headers={"Accept-Signature": wanted},
    )
