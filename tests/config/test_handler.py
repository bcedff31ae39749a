"""Requests of the API stay in the event loop; pages go Django's way."""

import asyncio
from typing import Any

import pytest
from asgiref.sync import SyncToAsync
from django.core.signals import request_finished

from config.asgi import application
from config.handler import Handler
from tenants.models import Organization
from tests import factories


def scope(path: str, key: str) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"authorization", f"Bearer {key}".encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }


async def ask(
    app: Any, path: str, *, key: str = "none", leaves: bool = False
) -> list[dict[str, Any]]:
    """What is sent to a client that asks, and stays or leaves at once."""
    sent: list[dict[str, Any]] = []
    told = [{"type": "http.request", "body": b"", "more_body": False}]
    if leaves:
        told.append({"type": "http.disconnect"})

    async def receive() -> dict[str, Any]:
        if not told:
            await asyncio.Event().wait()
        return told.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await asyncio.wait_for(app(scope(path, key), receive, send), 20)
    return sent


@pytest.fixture
def key(acme: Organization) -> str:
    """Acme's program's key."""
    return factories.api_key(acme)[1]


@pytest.mark.django_db(transaction=True)
async def test_a_request_of_the_api_is_handed_to_no_thread(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[Any] = []
    call = SyncToAsync.__call__

    async def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        handed.append(self.func)
        return await call(self, *args, **kwargs)

    monkeypatch.setattr(SyncToAsync, "__call__", noted)
    sent = await ask(application, "/v1/models", key=key)
    assert sent[0]["status"] == 200
    assert handed == []


@pytest.mark.parametrize("leaves", [False, True])
async def test_however_a_request_ends_django_is_told_once(leaves: bool) -> None:
    told: list[Any] = []

    def note(**_: Any) -> None:
        told.append(True)

    request_finished.connect(note)
    try:
        await ask(Handler(), "/v1/models", leaves=leaves)
    finally:
        request_finished.disconnect(note)
    assert told == [True]


@pytest.mark.django_db(transaction=True)
async def test_a_page_is_answered_as_ever(redis: Any) -> None:
    sent = await ask(application, "/")
    assert sent[0]["status"] == 200
