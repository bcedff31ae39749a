"""Requests and batches that end are told to those who asked: figures, never texts."""

import json
from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone
from openai import AsyncOpenAI

from inference.worker import Host
from tenants.models import Organization
from tenants.webhooks import sending
from tenants.webhooks.events import Kind
from tests.inference.parts import in_schema, serving
from tests.inference.test_batches import begin, carried_out, chat, line
from tests.inference.test_batches import key as key
from tests.tenants.test_webhooks import Receiver, hook
from tests.tenants.test_webhooks import _fresh as _fresh
from tests.tenants.test_webhooks import receiver as receiver

pytestmark = pytest.mark.django_db(transaction=True)


async def test_a_request_and_a_batch_that_end_are_told(
    openai: AsyncOpenAI, host: Host, acme: Organization, receiver: Receiver
) -> None:
    await in_schema("public", lambda: hook(acme, receiver.url, *Kind))
    with serving(host):
        made = await openai.chat.completions.create(**chat("canary"))
        batch = await begin(openai, [line("first", chat("canary"))])
        await carried_out()
    await in_schema("public", lambda: sending.send_due(now=timezone.now()))
    found: dict[str, list[Any]] = {}
    for _, body in receiver.told:
        assert b"canary" not in body
        event = json.loads(body)
        found.setdefault(event["type"], []).append(event["data"])
    assert {*found} == {"request.finished", "batch.finished"}
    requests = {UUID(each["request"]).hex: each for each in found["request.finished"]}
    assert len(requests) == 2
    told = requests[made.id.removeprefix("chatcmpl-")]
    assert (told["state"], told["reason"]) == ("finished", "stop")
    assert told["prompt_tokens"] + told["completion_tokens"] == made.usage.total_tokens
    assert told["amount_nanos"] == made.usage.cost["amount_nanos"]
    [ended] = found["batch.finished"]
    assert (ended["batch"], ended["status"], ended["completed"]) == (batch.id, "completed", 1)
