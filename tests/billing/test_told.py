"""What happens to money is told to those who asked: each kind, once, to a server that runs."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from billing import alerts, lifecycle
from billing.models import Account
from kit.money import NANOS
from tenants.webhooks import events, sending
from tenants.webhooks.events import Kind
from tests.billing.rows import entry
from tests.billing.test_allowances import budget, now, spend
from tests.billing.test_invoicing import AFTER, close
from tests.billing.test_ledger import booked
from tests.tenants.test_webhooks import Receiver, hook
from tests.tenants.test_webhooks import receiver as receiver

pytestmark = pytest.mark.usefixtures("redis")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Who wants to know what is held in memory."""
    events.forget()
    yield
    events.forget()


def heard(receiver: Receiver) -> list[tuple[str, Any]]:
    """The kinds and data of what is due, as it arrives."""
    sending.send_due(now=AFTER if now() < AFTER else now())
    found = [json.loads(body) for _, body in receiver.told]
    receiver.told.clear()
    return [(each["type"], each["data"]) for each in found]


@pytest.mark.parametrize(
    ("moves", "kinds"),
    [
        (("open", "paid"), ("issued", "paid")),
        (("open", "void"), ("issued", "voided")),
        (("open", "uncollectible", "paid"), ("issued", "uncollectible", "paid")),
    ],
)
def test_each_step_of_an_invoice_is_told(
    account: Account, receiver: Receiver, moves: Any, kinds: Any
) -> None:
    booked(entry(account.organization_id, amounts={"input_tokens": 100 * NANOS}))
    hook(account.organization, receiver.url, *Kind)
    invoice = close(account)
    for to, kind in zip(moves, kinds, strict=True):
        if invoice.status != to:
            lifecycle.move(invoice=invoice.pk, to=to, now=AFTER)
        [(told, data)] = heard(receiver)
        assert told == f"invoice.{kind}"
        assert (data["status"], data["total_minor"]) == (to, 10_000)


def test_a_budget_that_is_reached_is_told_once(
    account: Account, receiver: Receiver, redis: Redis
) -> None:
    budget(account, "project", "site", 100)
    hook(account.organization, receiver.url, *Kind)
    spend(account, 50, project="site")
    for _ in range(2):
        alerts.watch(now=now())
    [(told, data)] = heard(receiver)
    assert (told, data["percent"], data["spent_nanos"]) == ("budget.reached", 50, 50)
