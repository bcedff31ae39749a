"""An organization's webhooks: made, changed, taken away; what they were told, and told again."""

import secrets
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.db import transaction

from kit import outbound
from kit.errors import Invalid, Refused
from tenants import audit, sealing
from tenants.audit import Actor, Change
from tenants.models import Organization
from tenants.webhooks.models import Delivery, Webhook
from tenants.webhooks.sending import secret_place

MOST = 20
"""An organization's."""
GRACE = timedelta(hours=24)
"""How long an old secret still signs beside a new one."""
_SECRET_BYTES = 32


class NoWebhook(Refused):
    """None of this id, or another organization's."""

    status, code = 404, "webhook_not_found"


class NoDelivery(Refused):
    """Nothing of this id was told to this webhook."""

    status, code = 404, "delivery_not_found"


class TooManyWebhooks(Refused):
    """So many are there that one has to go first."""

    status, code = 409, "too_many_webhooks"


def listed(organization: int) -> list[Webhook]:
    """All of them, the oldest first."""
    return list(Webhook.objects.for_org(organization))


def one(organization: int, identifier: UUID) -> Webhook:
    """Raises `NoWebhook`."""
    found = Webhook.objects.for_org(organization).filter(pk=identifier).first()
    if found is None:
        raise NoWebhook(f"There is no webhook {identifier}; GET /api/v1/webhooks lists yours.")
    return found


def make(
    organization: int, *, url: str, kinds: Sequence[str], by: Actor, now: datetime
) -> tuple[Webhook, str]:
    """A new one, and its secret, which is shown this once. Raises `Invalid`, `TooManyWebhooks`."""
    _check(url)
    made = Webhook(organization_id=organization, url=url, kinds=sorted(set(kinds)), created_at=now)
    text = _new_secret(made)
    with transaction.atomic():
        Organization.objects.select_for_update(no_key=True).get(pk=organization)
        if Webhook.objects.for_org(organization).count() >= MOST:
            raise TooManyWebhooks(f"There may be {MOST} webhooks; delete one first.")
        made.save(force_insert=True)
        _record("webhook.made", made, by, now, after=_told(made))
    return made, text


def change(
    organization: int, identifier: UUID, fields: Mapping[str, Any], *, by: Actor, now: datetime
) -> Webhook:
    """Change `url`, `kinds` or `enabled`; what changes nothing is not recorded.

    Raises `NoWebhook` or `Invalid`.
    """
    if "url" in fields:
        _check(fields["url"])
    with transaction.atomic():
        found = _locked(organization, identifier)
        before = _told(found)
        for name, value in fields.items():
            setattr(found, name, value)
        before, after = audit.differences(before, _told(found))
        if after:
            found.save(update_fields=list(fields))
            _record("webhook.changed", found, by, now, before, after)
    return found


def rotate(organization: int, identifier: UUID, *, by: Actor, now: datetime) -> tuple[Webhook, str]:
    """A new secret; the old one signs beside it for a day. Raises `NoWebhook`."""
    with transaction.atomic():
        found = _locked(organization, identifier)
        found.previous_secret, found.previous_until = found.secret, now + GRACE
        text = _new_secret(found)
        found.save(update_fields=["secret", "previous_secret", "previous_until"])
        after = {"previous_until": found.previous_until}
        _record("webhook.rotated", found, by, now, after=after)
    return found, text


def remove(organization: int, identifier: UUID, *, by: Actor, now: datetime) -> None:
    """With what it was told. Raises `NoWebhook`."""
    with transaction.atomic():
        found = _locked(organization, identifier)
        _record("webhook.removed", found, by, now, before=_told(found))
        found.delete()


def deliveries(organization: int, identifier: UUID, *, most: int) -> list[Delivery]:
    """What it was told, or is to be, the latest first. Raises `NoWebhook`."""
    rows = Delivery.objects.filter(webhook=one(organization, identifier))
    return list(rows.select_related("event").order_by("-event__at", "-pk")[:most])


def replay(organization: int, identifier: UUID, event: UUID, *, now: datetime) -> Delivery:
    """Tell it again, under the same id, now. Raises `NoWebhook` or `NoDelivery`."""
    rows = Delivery.objects.filter(webhook=one(organization, identifier), event=event)
    again = {"state": Delivery.State.WAITING, "tries": 0, "due_at": now, "ended_at": None}
    if not rows.update(**again):
        raise NoDelivery(f"The webhook was not told of msg_{event.hex}, or too long ago.")
    return rows.select_related("event").get()


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
        if (parts.hostname or "").isascii():
            (parts.hostname or "").encode("idna")  # Its labels may be empty, or too long.
    except ValueError as error:
        raise Invalid("url: it is no URL.", param="url") from error
    schemes = {"https"} if settings.PRODUCTION else {"https", "http"}
    hidden = parts.username or parts.password or parts.fragment
    if parts.scheme not in schemes or not parts.hostname or port == 0 or hidden:
        wanted = " or ".join(f"{each}://" for each in sorted(schemes, reverse=True))
        raise Invalid(
            f"url: it must begin with {wanted} and a host; no user, no fragment.", param="url"
        )
    with suppress(ValueError):  # A name is judged when it is called, by what it is then.
        if not outbound.may_call(ip_address(parts.hostname)):
            raise Invalid(f"url: {parts.hostname} is not a public address.", param="url")


def _new_secret(webhook: Webhook) -> str:
    text = "whsec_" + b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
    webhook.secret = sealing.seal(text, secret_place(webhook))
    return text


def _locked(organization: int, identifier: UUID) -> Webhook:
    """As `one`; nobody else changes it until the commit."""
    rows = Webhook.objects.for_org(organization).filter(pk=identifier)
    return rows.select_for_update(no_key=True).first() or one(organization, identifier)


def _told(webhook: Webhook) -> dict[str, Any]:
    """What the audit log says of it: never its secret."""
    return {"url": webhook.url, "kinds": list(webhook.kinds), "enabled": webhook.enabled}


def _record(
    action: str,
    webhook: Webhook,
    by: Actor,
    now: datetime,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    change = Change(action, f"webhook:{webhook.pk}", before, after)
    audit.record(change, by=by, organization=webhook.organization_id, now=now)
