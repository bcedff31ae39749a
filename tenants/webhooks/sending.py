"""Telling it: signed as Standard Webhooks has it (github.com/standard-webhooks/standard-webhooks,
spec), tried again at growing distances, by looking at a table."""

import hmac
from base64 import b64decode, b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

import orjson
import requests
import structlog
from django.db.models import F

from kit import outbound
from kit.envelope import Place, Unreadable
from kit.keepers import KeeperFailed
from tenants import sealing
from tenants.webhooks.models import Delivery, Event, Webhook

PAUSES = tuple(
    timedelta(seconds=seconds) for seconds in (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400)
)
"""After each failure, as the specification advises: the last try comes after a day and a half."""
KEPT = timedelta(days=30)
"""How long an event can be told again."""
_LEASE = timedelta(minutes=2)
_AT_ONCE = 8
_MOST = 64
_SECONDS = 10
State = Delivery.State

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Answer:
    """What an address said: a status, or why there is none."""

    status: int | None
    error: str = ""

    @property
    def is_taken(self) -> bool:
        """Whether it need not be told again."""
        return self.status is not None and 200 <= self.status < 300


def send_due(*, now: datetime) -> int:
    """Tell what is due; how many were delivered. A claim that its worker dropped is due again."""
    due = list(_claimed(now))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = list(pool.map(lambda each: _call(each, now), due))
    for delivery, answer in zip(due, answers, strict=True):
        _note(delivery, answer, now)
    return sum(answer.is_taken for answer in answers)


def signature(secret: str, *, identifier: str, at: datetime, body: bytes) -> str:
    """`v1,` and the base64 of an HMAC-SHA256 over id, timestamp and body."""
    key = b64decode(secret.removeprefix("whsec_"))
    signed = f"{identifier}.{int(at.timestamp())}.".encode() + body
    return "v1," + b64encode(hmac.digest(key, signed, sha256)).decode()


def secret_place(webhook: Webhook) -> Place:
    """Where a webhook's secrets belong."""
    return Place(webhook.organization_id, "webhook.secret", str(webhook.pk))


def purge(*, now: datetime) -> int:
    """Forget events that are too old to be told again; how many."""
    old = Event.objects.across_organizations().filter(at__lt=now - KEPT)
    return old.delete()[0]


def _claimed(now: datetime) -> Iterator[Delivery]:
    due = Delivery.objects.filter(state=State.WAITING, due_at__lte=now).order_by("due_at")
    for delivery in due.select_related("webhook", "event")[:_MOST]:
        mine = Delivery.objects.filter(pk=delivery.pk, attempts=delivery.attempts)
        if mine.update(attempts=F("attempts") + 1, due_at=now + _LEASE):
            delivery.attempts += 1
            yield delivery


def _call(delivery: Delivery, now: datetime) -> Answer:
    webhook, event = delivery.webhook, delivery.event
    if not webhook.enabled:
        return Answer(410, "the webhook is switched off")
    body = orjson.dumps({"type": event.kind, "timestamp": event.at.isoformat(), "data": event.data})
    identifier = f"msg_{event.pk.hex}"
    try:
        signatures = " ".join(
            signature(secret, identifier=identifier, at=now, body=body)
            for secret in _secrets(webhook, now)
        )
    except (Unreadable, KeeperFailed):
        return Answer(None, "its secret is out of reach")
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "ai-inference-platform-webhooks/1",
        "webhook-id": identifier,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signatures,
    }
    try:
        with (
            outbound.session() as session,
            session.post(
                webhook.url,
                data=body,
                headers=headers,
                timeout=_SECONDS,
                allow_redirects=False,
                stream=True,
            ) as response,
        ):
            return Answer(response.status_code)
    except (requests.RequestException, OSError) as error:
        return Answer(None, str(error)[:200])
    except Exception as error:
        log.exception("a webhook could not be called", webhook=str(webhook.pk))
        return Answer(None, f"it could not be called: {type(error).__name__}")


def _secrets(webhook: Webhook, now: datetime) -> Iterator[str]:
    place = secret_place(webhook)
    yield sealing.unseal(webhook.secret, place)
    if webhook.previous_secret and webhook.previous_until and webhook.previous_until > now:
        yield sealing.unseal(webhook.previous_secret, place)


def _note(delivery: Delivery, answer: Answer, now: datetime) -> None:
    """What came of it, unless somebody else tries meanwhile. Who is gone (410) is left alone."""
    mine = Delivery.objects.filter(pk=delivery.pk, attempts=delivery.attempts, state=State.WAITING)
    said = {"status": answer.status, "error": answer.error, "tries": delivery.tries + 1}
    if answer.is_taken:
        mine.update(state=State.DELIVERED, ended_at=now, **said)
    elif answer.status == 410 or delivery.tries >= len(PAUSES):
        mine.update(state=State.FAILED, ended_at=now, **said)
        log.warning("a webhook was not delivered", told=str(delivery.event_id), **said)
    else:
        mine.update(due_at=now + PAUSES[delivery.tries], **said)
