"""In production nobody sends a key in the clear, and nobody says of themselves that they don't."""

from typing import Any

import pytest
from django.test import Client
from redis import Redis

from config.intake import counted
from kit import origin

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis")]


@pytest.fixture
def production(settings: Any) -> Client:
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_HSTS_SECONDS = 31_536_000
    settings.SECURE_HSTS_INCLUDE_SUBDOMAINS = settings.SECURE_HSTS_PRELOAD = True
    return Client()


@pytest.mark.parametrize("path", ["/v1/models", "/api/v1/keys", "/api/nothing"])
def test_the_api_refuses_plain_http_and_says_how(production: Client, path: str) -> None:
    forged = {"X-Forwarded-Proto": "https", "Authorization": "Bearer x"}
    answer = production.get(path, headers=forged)
    said = answer.json()
    if path.startswith("/v1"):
        said = said["error"] | {"detail": said["error"]["message"]}
    assert (answer.status_code, said["code"]) == (403, "https_required")
    assert "https://" in said["detail"]
    assert "TRUSTED_PROXIES" in said["detail"]
    assert answer["X-Request-ID"]
    secure = production.get(path, secure=True)
    assert secure.status_code in (401, 404)
    assert secure["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains; preload"


def test_pages_are_redirected_and_probes_answered(production: Client) -> None:
    page = production.get("/accounts/login/")
    assert (page.status_code, page["Location"]) == (301, "https://testserver/accounts/login/")
    assert production.get("/health").status_code in (200, 503)
    assert production.get("/metrics").status_code == 200


def test_in_development_plain_http_is_served(client: Client) -> None:
    assert client.get("/v1/models").status_code == 401


@pytest.mark.parametrize(
    ("kind", "peer", "said", "scheme"),
    [
        ("http", "10.0.0.1", "https", "https"),
        ("http", "10.0.0.1", "http, https", "https"),
        ("http", "10.0.0.1", "https, http", "http"),
        ("http", "203.0.113.9", "https", "http"),
        ("http", "", "https", "http"),
        ("http", "10.0.0.1", "", "http"),
        ("websocket", "10.0.0.1", "https", "wss"),
        ("websocket", "203.0.113.9", "https", "ws"),
    ],
)
async def test_only_our_own_proxies_say_that_it_was_tls(
    settings: Any, kind: str, peer: str, said: str, scheme: str
) -> None:
    settings.TRUSTED_PROXIES = ["10.0.0.0/8"]
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["scheme"])

    headers = [(b"x-forwarded-proto", said.encode())] if said else []
    own = "ws" if kind == "websocket" else "http"
    scope = {"type": kind, "client": (peer, 1), "headers": headers, "scheme": own}
    await origin.over(app)(scope, None, None)
    assert seen == [scheme]


@pytest.mark.parametrize(("scheme", "closed"), [("ws", True), ("wss", False)])
async def test_no_socket_is_opened_in_the_clear(settings: Any, scheme: str, closed: bool) -> None:
    settings.SECURE_SSL_REDIRECT = True
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "client": ("10.0.0.1", 1), "headers": [], "scheme": scheme}
    await counted(app)(scope, None, send)  # type: ignore[arg-type]
    assert [each["type"] for each in sent] == ["websocket.close" if closed else "websocket.accept"]


def test_what_is_trusted_is_not_asked_of_headers(settings: Any, redis: Redis) -> None:
    assert settings.SECURE_PROXY_SSL_HEADER is None
