"""What is open for long hears that its caller is shut out, and does not wait for ever."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import pytest
from django.test import AsyncClient

from inference import generation
from inference.catalog.offers import Offer
from tenants import keys, organizations
from tenants.models import ApiKey, Membership, Organization, Role
from tests import factories
from tests.inference.parts import fields, in_schema
from tests.inference.test_consumers import connect, hear
from tests.tenants.test_doors import NOW

pytestmark = pytest.mark.django_db(transaction=True)

SOON = 5.0
"""It takes a second; a machine that is busy may take longer."""


@pytest.fixture(autouse=True)
def _nobody_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader who leaves has fifteen seconds else."""
    monkeypatch.setattr(generation, "LINGER_SECONDS", 0)


@pytest.fixture
def made(account: Any, acme: Organization) -> tuple[ApiKey, str]:
    """Acme's program's key, a person's of whom it is too."""
    ann = factories.user("ann")
    factories.member(ann, acme, Role.DEVELOPER)
    return factories.api_key(acme, person=ann)


def _revoke(key: ApiKey) -> None:
    keys.revoke(key, now=NOW)


def _suspend(key: ApiKey) -> None:
    organizations.suspend(key.organization, now=NOW, reason="unpaid")


def _leave(key: ApiKey) -> None:
    Membership.objects.for_org(key.organization).get(user=key.person).delete()


def _narrow(key: ApiKey) -> None:
    key.scopes = ["usage"]
    key.save()


SHUT: tuple[tuple[Callable[[ApiKey], None], int, str], ...] = (
    (_revoke, 4401, "invalid_api_key"),
    (_suspend, 4403, "organization_suspended"),
    (_leave, 4401, "invalid_api_key"),
    (_narrow, 4403, "insufficient_scope"),
)


@pytest.mark.parametrize(("shut", "code", "reason"), SHUT, ids=lambda v: getattr(v, "__name__", ""))
async def test_an_idle_socket_is_closed_and_told_why(
    shut: Callable[[ApiKey], None], code: int, reason: str, made: tuple[ApiKey, str], echo: Offer
) -> None:
    key, text = made
    socket = await connect(text)
    assert (await hear(socket))["type"] == "ready"
    await in_schema("public", lambda: shut(key))
    started = time.monotonic()
    assert (await hear(socket))["error"]["code"] == reason
    closed = await socket.receive_output(timeout=5)
    assert (closed["code"], closed["reason"]) == (code, reason)
    assert time.monotonic() - started < SOON
    await socket.disconnect()


async def stream(text: str) -> AsyncIterator[dict[str, Any]]:
    """The events of a request for which no worker comes."""
    answer: Any = await AsyncClient().post(
        "/api/v1/infer/stream",
        json.dumps({"prompt": "hi"}),
        content_type="application/json",
        headers={"Authorization": f"Bearer {text}"},
    )
    assert answer.status_code == 200
    async for part in answer:
        name = next(line for line in part.decode().split("\n") if line.startswith("event:"))
        data = next(line for line in part.decode().split("\n") if line.startswith("data:"))
        yield {"event": name.removeprefix("event: "), **json.loads(data.removeprefix("data: "))}


async def until_cancelled(request: UUID) -> None:
    """Before a worker had it, so that it costs nothing."""
    async with asyncio.timeout(30):
        while fields(request)["state"] == "waiting":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    found = fields(request)
    assert (found["reason"], found["position"]) == ("cancelled", "0")


@pytest.mark.parametrize("shut", [_revoke, _suspend])
async def test_a_stream_ends_with_the_refusal_and_its_request_is_cancelled(
    shut: Callable[[ApiKey], None], made: tuple[ApiKey, str], echo: Offer
) -> None:
    key, text = made
    events = stream(text)
    begun = await anext(events)
    assert begun["event"] == "start"
    await in_schema("public", lambda: shut(key))
    started = time.monotonic()
    [last] = [each async for each in events]
    assert last["event"] == "error"
    assert last["code"] in {"invalid_api_key", "organization_suspended"}
    assert time.monotonic() - started < SOON
    await until_cancelled(UUID(begun["request_id"]))


async def test_a_stream_to_which_nothing_comes_is_ended_and_costs_nothing(
    made: tuple[ApiKey, str], echo: Offer, settings: Any
) -> None:
    settings.SILENT_SECONDS = 0.2
    events = [each async for each in stream(made[1])]
    assert [each["event"] for each in events] == ["start", "error"]
    assert (events[1]["code"], events[1]["status"]) == ("answer_timed_out", 504)
    await until_cancelled(UUID(events[0]["request_id"]))
