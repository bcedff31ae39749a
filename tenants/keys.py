"""API keys as text: `aip_<environment>_<id>_<secret><checksum>`.

The prefix lets secret scanners find a leaked key, the checksum refuses a typo before any look-up,
the id finds the row, and the secret is kept as a hash under `settings.KEY_PEPPER`: 190 random bits
need no slow hash, and a stolen table alone cannot be tried against.
"""

import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from string import ascii_letters, digits
from typing import Any
from zlib import crc32

from django.conf import settings
from django.db import transaction

from kit.errors import Refused
from tenants import audit, shutting
from tenants.audit import Actor, Change
from tenants.models import ApiKey, Environment, Organization, Scope, User, every_scope
from tenants.records import changing

_ALPHABET = digits + ascii_letters
_ID, _SECRET, _CHECKSUM = 12, 32, 6
_FORM = re.compile(
    rf"(aip_(?:live|test)_([0-9A-Za-z]{{{_ID}}})_[0-9A-Za-z]{{{_SECRET}}})"
    rf"([0-9A-Za-z]{{{_CHECKSUM}}})"
)


_FACTS = (
    "name", "environment", "scopes", "models", "networks", "expires_at",
    "requests_per_minute", "tokens_per_minute", "concurrent_requests",
    "signing_key", "person_id",
)  # fmt: skip


class Unauthenticated(Refused):
    """Nobody we know, or no longer."""

    status, code = 401, "invalid_api_key"


@dataclass(frozen=True, slots=True)
class Presented:
    """A key somebody shows: well formed, not yet believed."""

    id: str
    text: str

    def hash(self) -> str:
        """What the row must hold, in hexadecimal."""
        return hmac.digest(settings.KEY_PEPPER.encode(), self.text.encode(), "sha256").hex()

    def is_of(self, secret_hash: str) -> bool:
        """Whether the row's hash is this key's, in constant time."""
        return hmac.compare_digest(self.hash(), secret_hash)


def parse(text: str) -> Presented:
    """The key that `text` spells; raises `Unauthenticated` for anything else."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise Unauthenticated(
            "This is not an API key of this platform: keys begin with aip_live_ or aip_test_ and "
            f"have {len(_spell('live', '0' * _ID, '0' * _SECRET))} characters. Copy the whole key."
        )
    body, identifier, checksum = match.groups()
    if _checksum(body) != checksum:
        raise Unauthenticated(
            "The API key is mistyped: its checksum does not match. Copy it again."
        )
    return Presented(identifier, body)


def mint(
    *,
    organization: Organization,
    name: str,
    environment: Environment = Environment.LIVE,
    scopes: Sequence[Scope] = tuple(map(Scope, every_scope())),
    models: Sequence[str] = (),
    created_by: User | None = None,
    expires_at: datetime | None = None,
    by: Actor = audit.SYSTEM,
) -> tuple[ApiKey, str]:
    """A new key of the organization, saved, and its text, which cannot be shown again.

    `models` are the names the key may use; none means every model.
    """
    key = ApiKey(
        organization=organization,
        name=name,
        environment=environment,
        scopes=[scope.value for scope in scopes],
        models=list(models),
        created_by=created_by,
        expires_at=expires_at,
    )
    return key, issue(key, by=by)


def issue(key: ApiKey, *, by: Actor = audit.SYSTEM) -> str:
    """Give an unsaved key its id and secret, save it, and return the text to show once."""
    key.id = _random(_ID)
    text = _spell(key.environment, key.id, _random(_SECRET))
    key.secret_hash = parse(text).hash()
    with transaction.atomic():
        key.save(force_insert=True)
        made = Change("key.created", target(key), after=facts(key))
        audit.record(made, by=by, organization=key.organization_id)
    return text


def revoke(
    key: ApiKey, *, now: datetime, by: Actor = audit.SYSTEM, action: str = "key.revoked"
) -> None:
    """Refuse the key from now on, everywhere within a second. A revoked key stays as it is."""
    with transaction.atomic(), changing(ApiKey.kind, key.pk):
        living = ApiKey.objects.for_org(key.organization_id).filter(pk=key.pk, revoked_at=None)
        if living.update(revoked_at=now):
            change = Change(action, target(key), {"revoked_at": None}, {"revoked_at": now})
            audit.record(change, by=by, organization=key.organization_id, now=now)
            shutting.look_again(key.organization_id)
    key.refresh_from_db(fields=["revoked_at"])


def target(key: ApiKey) -> str:
    """How the audit log names it."""
    return f"key:{key.pk}"


def facts(key: ApiKey) -> dict[str, Any]:
    """What an auditor wants to know of a key; its hash is not among it."""
    return {name: getattr(key, name) for name in _FACTS}


def _spell(environment: str, identifier: str, secret: str) -> str:
    body = f"aip_{environment}_{identifier}_{secret}"
    return body + _checksum(body)


def _checksum(body: str) -> str:
    """CRC-32 in base 62: it finds every change within four neighbouring characters."""
    value, figures = crc32(body.encode()), ""
    for _ in range(_CHECKSUM):
        value, figure = divmod(value, len(_ALPHABET))
        figures = _ALPHABET[figure] + figures
    return figures


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
