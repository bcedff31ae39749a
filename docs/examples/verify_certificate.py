"""A certificate of erasure, checked without the platform that signed it.

pip install cryptography
python verify_certificate.py certificate.json <public key, in base64>

The key is the one that the platform publishes at /api/v1/certificates/keys, kept since before you
needed it, or had from there: a certificate brings one along, which proves nothing by itself.
"""

import json
import sys
from base64 import b64decode
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def main(path: str, key: str) -> int:
    """0 where the holder of the key signed this very statement."""
    certificate = json.loads(Path(path).read_text(encoding="utf-8"))
    statement = certificate["statement"]
    signed = json.dumps(statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        Ed25519PublicKey.from_public_bytes(b64decode(key)).verify(
            b64decode(certificate["signature"]), signed.encode()
        )
    except InvalidSignature:
        print("NOT GENUINE: this key did not sign this statement.")
        return 1
    whose = statement["organization"]
    print(f"Genuine: {whose['name']} ({whose['slug']}) was erased at {statement['erased_at']}.")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
