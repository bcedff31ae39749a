"""Connections that say nothing, or say it too slowly, are closed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from channels.testing import WebsocketCommunicator

from config import intake, server
from config.asgi import application
from inference import consumers
from kit.connections import connection

ANSWER = b"HTTP/1.1 200 OK"


async def greeting(scope: Any, receive: Any, send: Any) -> None:
    """Says hello to everybody."""
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hi"})


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    config = uvicorn.Config(
        app, port=0, http="config.server:Punctual", lifespan="off", log_level="critical"
    )
    config.load()
    web = uvicorn.Server(config)
    web.lifespan = config.lifespan_class(config)
    await web.startup()
    try:
        yield web.servers[0].sockets[0].getsockname()[1]
    finally:
        await web.shutdown()


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_head_that_does_not_arrive_ends_the_connection(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    async with serving(greeting) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_each_request_of_a_connection_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    async with serving(greeting) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readuntil(b"hi")).startswith(ANSWER)
        writer.write(b"GET / HT")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + b"X-Many: y\r\n" * 6_000 + b"Content-Length: 1\r\n\r\nb",
        b"GET / HTTP/1.1\r\nX-Endless: " + b"x" * 1_000_000,
        b"\r\n" * 500_000,
    ],
)
async def test_a_head_that_is_too_large_is_refused(head: bytes) -> None:
    async with serving(greeting) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        said = b""
        with suppress(ConnectionError):  # It is closed while we speak.
            while part := await asyncio.wait_for(reader.read(65_536), 10):
                said += part
        assert b"200 OK" not in said
        assert not said or (said.startswith(b"HTTP/1.1 431 ") and b"request_head_too_large" in said)
        writer.close()


async def test_a_large_body_in_one_go_is_no_large_head() -> None:
    async with serving(greeting) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(b"POST / HTTP/1.1\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000)
            assert (await reader.readuntil(b"hi")).startswith(ANSWER)
        writer.close()


async def test_one_address_sends_so_much_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_BYTES_PER_ADDRESS", 1_000)
    head = b"POST /api/v1/x HTTP/1.1\r\nContent-Length: 800\r\n\r\n"
    async with serving(intake.Intake(greeting)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"x" * 700)
        other, another = await asyncio.open_connection("127.0.0.1", port)
        another.write(head + b"x" * 700)
        first, second = asyncio.create_task(reader.read(900)), asyncio.create_task(other.read(900))
        [refused], _ = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
        assert b"too_much_at_once" in refused.result()
        taken, rest = (first, writer) if refused is second else (second, another)
        rest.write(b"x" * 100)
        assert (await taken).startswith(ANSWER)
        assert not intake._arriving
        for each in (writer, another):
            each.close()


def test_a_message_on_a_socket_is_as_long_as_a_body_at_most(settings: Any) -> None:
    web = (settings.BASE_DIR / "Procfile").read_text()
    assert f"--ws-max-size {settings.BODY_LIMIT} " in web
    assert "--http config.server:Punctual " in web


async def test_an_answer_that_nobody_takes_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_SEND_SECONDS", 0.2)
    ended = asyncio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        finally:
            ended.set()

    async with serving(intake.Intake(endless)) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(ended.wait(), 10)
        writer.close()


async def test_one_address_has_so_many_requests_and_sockets(settings: Any) -> None:
    settings.CONNECTIONS_PER_ADDRESS = 1
    with connection("127.0.0.1"):
        async with serving(intake.Intake(greeting)) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /api/v1/x HTTP/1.1\r\nHost: x\r\n\r\n")
            said = await reader.readuntil(b"}")
            assert said.startswith(b"HTTP/1.1 429")
            assert b"retry-after: 1" in said
            assert b"too_many_connections" in said
            writer.close()
    with connection("None"):
        socket = WebsocketCommunicator(application, "/ws/v1/infer")
        connected, code = await socket.connect()
        assert (connected, code) == (False, 1013)


async def test_a_socket_on_which_nothing_happens_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(consumers, "_IDLE_SECONDS", 0.2)
    socket = WebsocketCommunicator(application, "/ws/v1/infer")
    await socket.connect()
    assert await socket.receive_output(5) == {"type": "websocket.close", "code": 4408}
