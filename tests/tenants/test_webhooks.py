"""Webhooks: signed as others verify it, told once each, again until taken, never to the inside."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest
from django.test import AsyncClient, Client
from django.utils import timezone
from redis import Redis
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from kit.errors import Invalid
from tenants import audit, keyring, keys, sealing, tokens
from tenants.models import LogIn, Organization, User
from tenants.webhooks import events, hooks, sending
from tenants.webhooks.events import Happened, Kind
from tenants.webhooks.models import Delivery, Event, Webhook
from tests import factories
from tests.inference.parts import in_schema

pytestmark = pytest.mark.django_db

NOW = timezone.now()
LEAK = {"key": "k", "name": "a key", "environment": "live"}


class Receiver:
    """A server that notes what it is told and answers with `status`."""

    def __init__(self) -> None:
        self.told: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.told.append(({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Quietly."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def receiver(settings: Any) -> Iterator[Receiver]:
    """Running, and allowed to be called."""
    settings.OUTBOUND_NETWORKS = ["127.0.0.1"]
    made = Receiver()
    thread = Thread(target=made.server.serve_forever, args=[0.05])
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Who wants to know what is held in memory; each test has its own."""
    events.forget()
    yield
    events.forget()


def hook(of: Organization, url: str, *kinds: Kind) -> tuple[Webhook, str]:
    wanted = [kind.value for kind in kinds or (Kind.KEY_LEAKED,)]
    made = hooks.make(of.pk, url=url, kinds=wanted, by=audit.SYSTEM, now=NOW)
    events.forget()
    return made


def leaked(of: Organization, key: str = "k") -> int:
    return events.tell([Happened(of.pk, Kind.KEY_LEAKED, key, LEAK)], now=NOW)


def sent(at: datetime = NOW) -> int:
    return sending.send_due(now=at)


def test_what_is_told_is_verified_by_standard_webhooks(
    acme: Organization, receiver: Receiver
) -> None:
    _, secret = hook(acme, receiver.url)
    leaked(acme)
    assert sent(timezone.now()) == 1  # a signature is good for five minutes
    [(headers, body)] = receiver.told
    assert Verifier(secret).verify(body, headers)["data"] == LEAK
    assert json.loads(body)["type"] == "key.leaked"
    with pytest.raises(WebhookVerificationError):
        Verifier(secret).verify(body + b" ", headers)
    assert Delivery.objects.get().state == "delivered"
    assert sent() == 0


def test_the_same_happening_is_one_event(acme: Organization, receiver: Receiver) -> None:
    hook(acme, receiver.url)
    assert [leaked(acme), leaked(acme), leaked(acme, "other")] == [1, 0, 1]
    sent()
    assert len({headers["webhook-id"] for headers, _ in receiver.told}) == len(receiver.told) == 2


def test_who_wants_nothing_of_it_is_told_nothing(
    acme: Organization, globex: Organization, receiver: Receiver
) -> None:
    hook(acme, receiver.url, Kind.BATCH_FINISHED)
    hook(globex, receiver.url)
    assert leaked(acme) == 0
    assert sent() == 0
    assert not Event.objects.across_organizations().exists()


def test_what_is_not_taken_is_told_again_at_growing_distances_and_given_up(
    acme: Organization, receiver: Receiver
) -> None:
    hook(acme, receiver.url)
    leaked(acme)
    receiver.status = 500
    at, tries = NOW, 0
    while (delivery := Delivery.objects.get()).state == "waiting":
        assert delivery.due_at <= at
        assert sent(at - timedelta(seconds=1)) == 0
        sent(at)
        tries += 1
        at += sending.PAUSES[min(tries, len(sending.PAUSES)) - 1]
    assert (delivery.state, delivery.tries, delivery.status) == ("failed", 8, 500)
    assert len(receiver.told) == 8
    assert len({headers["webhook-id"] for headers, _ in receiver.told}) == 1


def test_who_is_gone_is_left_alone(acme: Organization, receiver: Receiver) -> None:
    hook(acme, receiver.url)
    leaked(acme)
    receiver.status = 410
    sent()
    assert Delivery.objects.get().state == "failed"


def test_an_event_is_told_again_under_its_id(acme: Organization, receiver: Receiver) -> None:
    made, _ = hook(acme, receiver.url)
    leaked(acme)
    sent()
    event = Event.objects.for_org(acme).get()
    hooks.replay(acme.pk, made.pk, event.pk, now=NOW)
    sent()
    first, again = receiver.told
    assert first[0]["webhook-id"] == again[0]["webhook-id"] == f"msg_{event.pk.hex}"
    with pytest.raises(hooks.NoDelivery):
        hooks.replay(acme.pk, made.pk, uuid4(), now=NOW)


def test_an_old_secret_verifies_for_a_day(acme: Organization, receiver: Receiver) -> None:
    made, old = hook(acme, receiver.url)
    _, new = hooks.rotate(acme.pk, made.pk, by=audit.SYSTEM, now=NOW)
    leaked(acme)
    sent(timezone.now())
    [(headers, body)] = receiver.told
    for secret in (old, new):
        Verifier(secret).verify(body, headers)
    leaked(acme, "later")
    Delivery.objects.filter(state="waiting").update(due_at=NOW)
    sent(NOW + timedelta(hours=25))
    assert " " not in receiver.told[1][0]["webhook-signature"]


def test_addresses_of_the_inside_are_not_called(
    acme: Organization, receiver: Receiver, settings: Any
) -> None:
    hook(acme, receiver.url)
    settings.OUTBOUND_NETWORKS = []
    leaked(acme)
    assert sent() == 0
    assert receiver.told == []
    assert "not a public address" in Delivery.objects.get().error


def test_an_address_that_nobody_can_make_sense_of_keeps_nobody_from_being_told(
    acme: Organization, globex: Organization, receiver: Receiver
) -> None:
    for each in (acme, globex):
        hook(each, receiver.url)
        leaked(each)
    Webhook.objects.for_org(acme).update(url=f"https://{'a' * 64}.example/")
    assert sent() == 1
    refused = Delivery.objects.get(webhook__organization=acme)
    assert "no name of a host" in refused.error


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x.example",
        "https://",
        "https://u:p@x.example",
        "x",
        "http://169.254.169.254/latest",
        "https://[::ffff:10.0.0.1]/",
        f"https://{'a' * 64}.example/",
        "https://a..example/",
    ],
)
def test_what_is_no_address_is_refused(url: str, acme: Organization) -> None:
    with pytest.raises(Invalid, match="url"):
        hook(acme, url)


def test_secrets_lie_sealed(acme: Organization) -> None:
    made, secret = hook(acme, "https://example.com")
    assert secret not in made.secret


def test_a_reported_key_is_told(acme: Organization, receiver: Receiver, redis: Redis) -> None:
    hook(acme, receiver.url)
    key, text = factories.api_key(acme)
    for _ in range(2):
        keyring.report_leaked(keys.parse(text), now=NOW)
    sent()
    [(_, body)] = receiver.told
    assert json.loads(body)["data"]["key"] == key.pk


def test_what_was_told_long_ago_is_forgotten(acme: Organization) -> None:
    hook(acme, "https://example.com")
    leaked(acme)
    assert sending.purge(now=NOW + timedelta(days=29)) == 0
    assert sending.purge(now=NOW + timedelta(days=31)) == 2


def access(user: User) -> str:
    login = LogIn(user=user, created_at=NOW, refreshed_at=NOW)
    pair = tokens.pair(user=user.pk, login=login.pk)
    login.token = pair.token
    login.save(force_insert=True)
    return pair.access


@pytest.mark.django_db(transaction=True)
async def test_webhooks_over_rest(alice: User, bob: User, acme: Organization, redis: Redis) -> None:
    client = AsyncClient()
    mine, theirs = [
        {
            "Authorization": f"Bearer {await in_schema('public', partial(access, who))}",
            "X-Organization": slug,
        }
        for who, slug in ((alice, "acme"), (bob, "globex"))
    ]
    form = {"url": "https://example.com/a", "events": ["key.leaked", "batch.finished"]}
    made = await client.post("/api/v1/webhooks", form, "application/json", headers=mine)
    assert made.status_code == 201
    assert made.json()["secret"].startswith("whsec_")
    path = f"/api/v1/webhooks/{made.json()['id']}"
    found = (await client.get(path, headers=mine)).json()
    assert found == {k: v for k, v in made.json().items() if k != "secret"}
    changed = await client.patch(path, {"enabled": False}, "application/json", headers=mine)
    assert changed.json()["enabled"] is False
    wrong = await client.post(
        "/api/v1/webhooks", {**form, "events": ["x"]}, "application/json", headers=mine
    )
    assert (wrong.status_code, wrong.json()["param"]) == (400, "events.0")
    assert (await client.get(path, headers=theirs)).status_code == 404
    assert (await client.get(f"{path}/deliveries", headers=mine)).json() == {"data": []}
    assert (await client.delete(path, headers=mine)).status_code == 200
    assert (await client.get(path, headers=mine)).status_code == 404


def test_people_set_webhooks_up_in_the_portal_and_tell_events_again(
    alice: User, acme: Organization, receiver: Receiver, redis: Redis, client: Client
) -> None:
    client.force_login(alice)
    place = f"/o/{acme.slug}/webhooks"
    form = {"url": receiver.url, "events": ["key.leaked"]}
    page = client.post(place, form).content.decode()
    made = Webhook.objects.for_org(acme).get()
    secret = sealing.unseal(made.secret, sending.secret_place(made))
    assert secret in page
    assert secret not in client.get(place).content.decode()
    events.forget()
    leaked(acme)
    sent()
    assert "delivered" in client.get(f"{place}/{made.pk}").content.decode()
    [event] = Event.objects.for_org(acme)
    client.post(f"{place}/{made.pk}/deliveries/{event.pk}/replay")
    sent(timezone.now())
    first, again = receiver.told
    assert first[0]["webhook-id"] == again[0]["webhook-id"]
    rotated = client.post(f"{place}/{made.pk}/rotate").content.decode()
    assert "The new secret" in rotated
    assert secret not in rotated
    client.post(f"{place}/{made.pk}", {"enabled": "0"})
    made.refresh_from_db()
    assert not made.enabled
    bad = client.post(
        f"{place}/{made.pk}", {"url": "ftp://x", "events": ["key.leaked"]}, follow=True
    )
    assert "it must begin with" in bad.content.decode()
    client.post(f"{place}/{made.pk}/remove")
    assert not Webhook.objects.for_org(acme).exists()
