"""The provider's webhooks: kept as they came, and handled once each, in whatever order.

An event only says where to look: what happened is then read from the provider as it stands now. So
what comes twice, late or out of order does no harm, and can be handled again by hand.
"""

from datetime import datetime, timedelta
from typing import Any

import orjson
import structlog
from django.db.models import F, Q

from billing import checkouts, collecting, disputes, gateway, profiles, refunded
from billing.receivables import ProviderEvent

log = structlog.get_logger()

_LEASE = timedelta(minutes=5)
_MOST_TRIES = 12


def receive(*, body: bytes, signature: str, now: datetime) -> str:
    """Keep a webhook, once; its id. Raises `gateway.Forged`."""
    event = gateway.verify(body, signature)
    row = ProviderEvent(
        id=event["id"][:64], kind=event["type"][:80], body=body.decode(), received_at=now
    )
    ProviderEvent.objects.bulk_create([row], ignore_conflicts=True)
    return row.id


def due(*, now: datetime) -> list[str]:
    """The events that nobody has handled."""
    rows = ProviderEvent.objects.filter(_free(now), tries__lt=_MOST_TRIES)
    return list(rows.order_by("received_at").values_list("pk", flat=True)[:500])


def handle(event: str, *, now: datetime) -> bool:
    """Handle an event, unless that was done or is being done."""
    rows = ProviderEvent.objects.filter(pk=event)
    if not rows.filter(_free(now)).update(leased_until=now + _LEASE, tries=F("tries") + 1):
        return False
    row = rows.get()
    try:
        _follow(row.kind, orjson.loads(row.body)["data"]["object"], now)
    except Exception as error:
        log.exception("an event could not be handled", identifier=event, kind=row.kind)
        pause = now + timedelta(minutes=2 ** min(row.tries, 10))
        rows.update(error=str(error)[:500], leased_until=pause)
        return False
    rows.update(handled_at=now, leased_until=None, error="")
    return True


def replay(event: str) -> None:
    """Have an event handled again."""
    ProviderEvent.objects.filter(pk=event).update(
        handled_at=None, leased_until=None, tries=0, error=""
    )


def _free(now: datetime) -> Q:
    return Q(handled_at=None) & (Q(leased_until=None) | Q(leased_until__lt=now))


def _follow(kind: str, subject: dict[str, Any], now: datetime) -> None:
    if kind.startswith("invoice."):
        collecting.wake(now=now, remote=subject["id"])
    elif kind.startswith("checkout.session."):
        checkouts.complete(subject["id"], now=now)
    elif kind == "customer.updated":
        profiles.refresh(subject["id"], now=now)
    elif kind.startswith("payment_method.") and subject.get("customer"):
        profiles.refresh(subject["customer"], now=now)
    elif kind.startswith("charge.dispute."):
        disputes.note(subject["id"], now=now)
    elif kind.startswith(("charge.refund", "refund.")):
        refunded.note(subject.get("payment_intent") or "", now=now)
