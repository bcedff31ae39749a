"""The WebSocket: many requests on one connection, and what goes wrong there."""

import asyncio
import json
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator

from inference import generation
from inference.catalog.offers import Offer
from inference.consumers import InferConsumer
from inference.models import Request
from inference.worker import Host
from kit import redis as kit_redis
from kit.redis import state
from tenants import known
from tenants.models import Organization
from tests import factories
from tests.inference.parts import in_schema, serving

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def key(account: Any, acme: Organization) -> str:
    """Acme's program's key."""
    return factories.api_key(acme)[1]


async def connect(key: str | None) -> WebsocketCommunicator:
    headers = [(b"authorization", f"Bearer {key}".encode())] if key else []
    socket = WebsocketCommunicator(InferConsumer.as_asgi(), "/ws/v1/infer", headers)
    assert (await socket.connect())[0]
    return socket


async def say(socket: WebsocketCommunicator, **message: Any) -> None:
    await socket.send_to(text_data=json.dumps(message))


async def hear(socket: WebsocketCommunicator) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await socket.receive_from(timeout=5))
    return found


async def hear_until_done(socket: WebsocketCommunicator, count: int) -> list[dict[str, Any]]:
    heard: list[dict[str, Any]] = []
    while sum(each["type"] in {"done", "error"} for each in heard) < count:
        heard.append(await hear(socket))
    return heard


async def test_several_requests_share_a_connection(key: str, host: Host) -> None:
    socket = await connect(key)
    assert (await hear(socket))["type"] == "ready"
    with serving(host):
        for name in ("a", "b", "c"):
            await say(socket, type="infer", id=name, prompt=name * 5)
        heard = await hear_until_done(socket, 3)
    for name in ("a", "b", "c"):
        mine = [each for each in heard if each["id"] == name]
        text = "".join(each["text"] for each in mine if each["type"] == "token")
        assert text == name * 5
        assert [each["type"] for each in mine if each["type"] != "token"] == [
            "started",
            "usage",
            "done",
        ]
    await socket.disconnect()


async def test_a_key_may_come_in_the_first_message(key: str, echo: Offer) -> None:
    socket = await connect(None)
    await say(socket, type="infer", prompt="hi")
    assert (await hear(socket))["error"]["status"] == 401
    await say(socket, type="auth", key=key)
    assert (await hear(socket))["type"] == "ready"
    await socket.disconnect()


async def test_a_bad_key_closes_the_connection(echo: Offer) -> None:
    socket = await connect("sk-nonsense")
    assert (await hear(socket))["error"]["code"] == "invalid_api_key"
    closed = await socket.receive_output(timeout=5)
    assert (closed["type"], closed["code"]) == ("websocket.close", 4401)
    await socket.disconnect()


async def test_a_key_that_cannot_be_checked_now_is_not_said_to_be_bad(
    key: str, echo: Offer, settings: Any
) -> None:
    known.KEYS.forget()
    await kit_redis.leave_loop()
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    socket = await connect(key)
    refusal = (await hear(socket))["error"]
    assert (refusal["status"], refusal["retry_after"]) == (503, 1)
    closed = await socket.receive_output(timeout=5)
    assert (closed["type"], closed["code"]) == ("websocket.close", 1013)
    await say(socket, type="infer", prompt="this was on its way")
    assert await socket.receive_nothing()
    await socket.disconnect()
    await kit_redis.leave_loop()


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ("{", "body"),
        ("[]", "body"),
        ('{"type": "dance"}', "type"),
        ('{"type": "infer", "prompt": "x", "colour": 1}', "colour"),
        ('{"type": "infer", "prompt": ""}', "prompt"),
        ('{"type": "infer", "prompt": "x", "model": "none"}', "model"),
        ('{"type": "cancel", "id": "nobody"}', "id"),
    ],
)
async def test_a_bad_message_is_refused_and_the_connection_stays(
    sent: str, param: str, key: str, echo: Offer
) -> None:
    socket = await connect(key)
    await hear(socket)
    await socket.send_to(text_data=sent)
    heard = await hear(socket)
    assert (heard["type"], heard["error"]["param"]) == ("error", param)
    await say(socket, type="ping")
    assert await hear(socket) == {"type": "pong"}
    await socket.disconnect()


async def test_an_id_in_use_is_refused(key: str, echo: Offer) -> None:
    socket = await connect(key)
    await hear(socket)
    for _ in range(2):
        await say(socket, type="infer", id="a", prompt="hi")
    heard = await hear_until_done(socket, 1)
    assert heard[-1]["error"]["param"] == "id"
    await socket.disconnect()


async def test_a_waiting_request_is_cancelled_and_costs_nothing(key: str, host: Host) -> None:
    socket = await connect(key)
    await hear(socket)
    await say(socket, type="infer", id="a", prompt="hi")
    assert (await hear(socket))["type"] == "started"
    await say(socket, type="cancel", id="a")
    usage, done = await hear(socket), await hear(socket)
    assert usage["cost"]["amount_nanos"] == 0
    assert done["finish_reason"] == "cancelled"
    row = await in_schema("org_acme", Request.objects.get)
    assert (row.state, row.amount) == ("cancelled", 0)
    await socket.disconnect()


async def test_what_is_open_at_a_disconnect_is_cancelled_if_nobody_comes_back(
    key: str, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "LINGER_SECONDS", 0)
    socket = await connect(key)
    await hear(socket)
    await say(socket, type="infer", id="a", prompt="hi")
    started = await hear(socket)
    with state().pubsub() as told:  # type: ignore[no-untyped-call]
        told.subscribe("workers")
        told.get_message(timeout=5)
        await socket.disconnect()
        message = await asyncio.to_thread(told.get_message, timeout=5)
    assert message["data"].decode() == f"finish {started['request_id']}"


async def test_a_socket_takes_structure_and_sampling_too(key: str, host: Host) -> None:
    socket = await connect(key)
    await hear(socket)
    fields = {"structured_outputs": {"json": {"enum": ["é", "e"]}}, "min_p": 0.1, "top_k": 5}
    with serving(host):
        await say(socket, type="infer", id="a", prompt='"e"', **fields)
        heard = await hear_until_done(socket, 1)
    assert "".join(each["text"] for each in heard if each["type"] == "token") == '"e"'
    await say(socket, type="infer", id="b", prompt="x", structured_outputs={"regex": "("})
    refused = await hear(socket)
    assert refused["error"]["param"] == "structured_outputs.regex"
    await socket.disconnect()
