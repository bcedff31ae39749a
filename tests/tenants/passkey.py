"""A passkey in software: it answers WebAuthn (www.w3.org/TR/webauthn-2) as a device does."""

import json
import secrets
import struct
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from fido2 import cbor
from fido2.cose import ES256
from fido2.utils import websafe_encode

_PRESENT, _VERIFIED, _ATTESTED = 0x01, 0x04, 0x40


@dataclass
class Passkey:
    """Of one person at one host."""

    host: str = "testserver"
    identifier: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    count: int = 0

    def register(self, challenge: str) -> dict[str, Any]:
        """§7.1's credential, with the attestation `none`."""
        public = ES256.from_cryptography_key(self.key.public_key())  # type: ignore[no-untyped-call]
        cose = cbor.encode(dict(public))
        credential = bytes(16) + struct.pack(">H", len(self.identifier)) + self.identifier + cose
        data = self._data(_PRESENT | _VERIFIED | _ATTESTED) + credential
        attestation = cbor.encode({"fmt": "none", "attStmt": {}, "authData": data})
        return self._credential(
            {
                "clientDataJSON": websafe_encode(self._client("webauthn.create", challenge)),
                "attestationObject": websafe_encode(attestation),
            },
            {"credProps": {"rk": True}},
        )

    def assertion(self, challenge: str, *, user: str = "", host: str = "") -> dict[str, Any]:
        """§7.2's: signed now, for this challenge."""
        client = self._client("webauthn.get", challenge, host)
        data = self._data(_PRESENT | _VERIFIED, host)
        signed = self.key.sign(data + sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
        return self._credential(
            {
                "clientDataJSON": websafe_encode(client),
                "authenticatorData": websafe_encode(data),
                "signature": websafe_encode(signed),
                "userHandle": websafe_encode(user.encode()),
            },
            {},
        )

    def _data(self, flags: int, host: str = "") -> bytes:
        self.count += 1
        return sha256((host or self.host).encode()).digest() + struct.pack(">BI", flags, self.count)

    def _client(self, kind: str, challenge: str, host: str = "") -> bytes:
        origin = f"https://{host or self.host}"
        return json.dumps({"type": kind, "challenge": challenge, "origin": origin}).encode()

    def _credential(self, response: dict[str, Any], extensions: dict[str, Any]) -> dict[str, Any]:
        name = websafe_encode(self.identifier)
        return {
            "id": name,
            "rawId": name,
            "type": "public-key",
            "response": response,
            "clientExtensionResults": extensions,
            "authenticatorAttachment": "platform",
        }
