"""Statements of the platform that can be checked without it: JSON, signed with Ed25519 (RFC 8032).

The signature is over the statement as JSON with sorted keys, no spaces and characters as they are.
What signs is a key of its own, made when it is first needed and sealed under the platform's data
key: one over all replicas, and no other secret's change voids what it signed. Public keys, of those
that sign no more as well, are published at /api/v1/certificates/keys.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from django.db import transaction

from kit.envelope import Place, Unreadable
from kit.keepers import KeeperFailed
from tenants import audit, datakeys, sealing
from tenants.audit import Actor, Change
from tenants.models import SigningKey

log = structlog.get_logger()


def sign(statement: Mapping[str, Any], *, now: datetime) -> dict[str, Any]:
    """The statement with its signature and the key that checks it.

    Raises `kit.envelope.Unreadable` where the key does not open: `rotate` makes another.
    """
    key = _signing(now)
    text = sealing.unseal(key.sealed, _place(key))
    private = Ed25519PrivateKey.from_private_bytes(base64.b64decode(text))
    return {
        "statement": dict(statement),
        "algorithm": key.algorithm,
        "signature": base64.b64encode(private.sign(_canonical(statement))).decode(),
        "public_key": key.public,
    }


def is_genuine(certificate: Mapping[str, Any], *, key: str) -> bool:
    """Whether the holder of `key` (32 bytes in base64, as published) signed this very statement."""
    try:
        signature = base64.b64decode(str(certificate["signature"]), validate=True)
        checker = Ed25519PublicKey.from_public_bytes(base64.b64decode(key, validate=True))
        checker.verify(signature, _canonical(certificate["statement"]))
    except (InvalidSignature, KeyError, TypeError, ValueError, binascii.Error):
        return False
    return True


def published(*, now: datetime) -> list[SigningKey]:
    """All keys that ever signed, or will first, the newest first: there before it is needed.

    None where there is none yet and the keeper of keys is away.
    """
    rows = SigningKey.objects.order_by("-made_at")
    try:
        return list(rows) or [_signing(now)]
    except (KeeperFailed, Unreadable) as error:
        log.warning("no key that signs certificates could be made", error=str(error))
        return []


def rotate(*, now: datetime, by: Actor) -> SigningKey:
    """Another key signs from now on; what the old one signed stays good. It is recorded."""
    with transaction.atomic():
        SigningKey.objects.filter(retired_at=None).update(retired_at=now)
        return _make(now, by)


def _signing(now: datetime) -> SigningKey:
    """The one that signs; the first is made here."""
    with transaction.atomic():
        return SigningKey.objects.filter(retired_at=None).first() or _make(now, audit.SYSTEM)


def _make(now: datetime, by: Actor) -> SigningKey:
    """The new key; another's, where one was made meanwhile."""
    private = Ed25519PrivateKey.generate()
    raw = private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    made = SigningKey(public=base64.b64encode(public).decode(), made_at=now)
    made.sealed = sealing.seal(base64.b64encode(raw).decode(), _place(made))
    SigningKey.objects.bulk_create([made], ignore_conflicts=True)
    signing = SigningKey.objects.get(retired_at=None)
    if signing.public == made.public:
        change = Change("signing_key.made", "signing_key", after={"public_key": made.public})
        audit.record(change, by=by, organization=None, now=now)
    return signing


def _place(key: SigningKey) -> Place:
    return Place(datakeys.PLATFORM, "signing_key", key.public)


def _canonical(statement: Mapping[str, Any]) -> bytes:
    text = json.dumps(statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()
