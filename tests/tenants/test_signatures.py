"""Keys that want every request signed: RFC 9421, by the documented client."""

import json
import runpy
import time
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync
from channels.testing import WebsocketCommunicator
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from django.conf import settings
from django.test import AsyncClient
from http_message_signatures import HTTPMessageSigner, HTTPSignatureKeyResolver, algorithms
from redis import Redis

from config.asgi import application
from kit.redis import async_state
from tenants.models import ApiKey, Organization
from tests import factories

pytestmark = [pytest.mark.usefixtures("redis"), pytest.mark.django_db(transaction=True)]

COVERED = ("@method", "@authority", "@path", "@query")
PRIVATE = Ed25519PrivateKey.generate()
PUBLIC = b64encode(PRIVATE.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


class Mine(HTTPSignatureKeyResolver):
    def __init__(self, private: Ed25519PrivateKey) -> None:
        self.private = private

    def resolve_private_key(self, key_id: str) -> Ed25519PrivateKey:
        return self.private


class Message:
    def __init__(self, method: str, url: str, headers: Mapping[str, str]) -> None:
        self.method, self.url, self.headers = method, url, dict(headers)


def signed(
    key: str,
    method: str = "GET",
    path: str = "/v1/models",
    body: bytes | None = None,
    *,
    private: Ed25519PrivateKey = PRIVATE,
    created: datetime | None = None,
    nonce: str | None = "",
    covered: tuple[str, ...] = COVERED,
    keyid: str = "",
) -> dict[str, str]:
    """The headers of a signed request."""
    message = Message(method, f"http://testserver{path}", {})
    HTTPMessageSigner(signature_algorithm=algorithms.ED25519, key_resolver=Mine(private)).sign(
        message,
        key_id=keyid or key.split("_")[2],
        created=created or datetime.now(UTC),
        nonce=uuid4().hex if nonce == "" else nonce,
        covered_component_ids=covered,
        body=body,
    )
    return message.headers


def ask(
    key: str,
    headers: Mapping[str, str],
    method: str = "GET",
    path: str = "/v1/models",
    body: bytes = b"",
) -> tuple[int, Any, Mapping[str, str]]:
    @async_to_sync
    async def run() -> tuple[int, Any, Mapping[str, str]]:
        response = await AsyncClient().generic(
            method,
            path,
            body,
            content_type="application/json",
            headers={"Authorization": f"Bearer {key}", **headers},
        )
        await async_state().aclose()
        return response.status_code, response.json(), response.headers

    return run()


@pytest.fixture
def key(redis: Redis, acme: Organization) -> str:
    """A key that wants signatures."""
    return factories.api_key(acme, signing_key=PUBLIC, scopes=["inference", "keys", "usage"])[1]


def test_a_signed_request_is_answered_once(key: str) -> None:
    headers = signed(key)
    assert ask(key, headers)[0] == 200
    status, said, _ = ask(key, headers)
    assert status == 401
    assert "nonce was used before" in said["error"]["message"]


def test_the_key_alone_opens_nothing_and_the_answer_says_what_to_sign(key: str) -> None:
    status, said, headers = ask(key, {})
    assert status == 401
    assert said["error"]["code"] == "invalid_signature"
    assert "Signature-Input is missing" in said["error"]["message"]
    wanted = headers["Accept-Signature"]
    assert '"@method" "@authority" "@path" "@query" "content-digest"' in wanted
    assert f'keyid="{key.split("_")[2]}"' in wanted


def test_a_body_is_signed_by_its_digest(key: str) -> None:
    path, body = "/api/v1/keys", json.dumps({"name": "x", "signing_key": PUBLIC}).encode()
    headers = signed(key, "POST", path, body)
    other = body.replace(b'"x"', b'"y"')
    assert "does not match" in ask(key, headers, "POST", path, other)[1]["detail"]
    bare = signed(key, "POST", path)
    assert "Content-Digest" in ask(key, bare, "POST", path, body)[1]["detail"]
    assert ask(key, signed(key, "POST", path, body), "POST", path, body)[0] == 201


WRONG: dict[str, dict[str, Any]] = {
    "another's signature": {"private": Ed25519PrivateKey.generate()},
    "too old": {"created": datetime.now(UTC) - timedelta(seconds=400)},
    "of the future": {"created": datetime.now(UTC) + timedelta(hours=1)},
    "without a nonce": {"nonce": None},
    "a nonce too short": {"nonce": "x"},
    "another method": {"method": "POST"},
    "another path": {"path": "/v1/models/x"},
    "another query": {"path": "/v1/models?limit=2"},
    "of too little": {"covered": ("@method",)},
    "another key's": {"keyid": "000000000000"},
}


@pytest.mark.parametrize("how", WRONG.values(), ids=WRONG)
def test_a_signature_that_does_not_fit_is_refused(key: str, how: dict[str, Any]) -> None:
    status, said, _ = ask(key, signed(key, **how))
    assert status == 401
    assert said["error"]["code"] == "invalid_signature"
    assert PUBLIC not in said["error"]["message"]


def test_garbage_in_the_headers_is_refused_not_broken(key: str) -> None:
    good = signed(key)
    for name, value in [
        ("Signature-Input", "x" * 5000),
        ("Signature-Input", 'a=("@method");created=9e9'),
        ("Signature", "sig=:AAAA:"),
        ("Signature", ""),
        ("Content-Digest", "sha-256=:x:"),
    ]:
        assert ask(key, {**good, name: value})[0] in {200, 401}
    assert ask(key, {**signed(key), "Signature": "pyhms=:AAAA:"})[0] == 401


def test_a_nonce_is_forgotten_when_its_signature_is_too_old_anyway(key: str, redis: Redis) -> None:
    ask(key, signed(key))
    [name] = redis.keys("nonce:*")
    assert 300 < redis.ttl(name) <= 320


def test_a_key_that_must_sign_makes_none_that_need_not(key: str) -> None:
    body = json.dumps({"name": "x"}).encode()
    status, said, _ = ask(
        key, signed(key, "POST", "/api/v1/keys", body), "POST", "/api/v1/keys", body
    )
    assert status == 403
    assert said["param"] == "signing_key"


def test_a_key_without_a_signing_key_needs_no_signature(acme: Organization) -> None:
    _, text = factories.api_key(acme)
    assert ask(text, {})[0] == 200


def test_a_socket_signs_its_handshake_once(key: str) -> None:
    @async_to_sync
    async def run() -> list[Any]:
        said = []
        for headers in ({}, signed(key, path="/ws/v1/infer")):
            sent = {"Authorization": f"Bearer {key}", "Host": "testserver", **headers}
            pairs = [(name.lower().encode(), value.encode()) for name, value in sent.items()]
            socket = WebsocketCommunicator(application, "/ws/v1/infer", headers=pairs)
            await socket.connect()
            said.append(await socket.receive_json_from(5))
            if said[-1]["type"] == "ready":
                for _ in range(2):
                    await socket.send_json_to({"type": "infer", "id": "a", "prompt": ""})
                    said.append(await socket.receive_json_from(5))
                await socket.disconnect()
        await async_state().aclose()
        return said

    refused, ready, first, second = run()
    assert refused["error"]["code"] == "invalid_signature"
    assert ready["type"] == "ready"
    assert first["error"]["code"] == second["error"]["code"] != "invalid_signature"


def test_signing_can_be_asked_for_and_let_go(acme: Organization) -> None:
    row, text = factories.api_key(acme, scopes=["keys"])
    path = f"/api/v1/keys/{row.pk}"
    bad = json.dumps({"signing_key": "AAAA"}).encode()
    assert "32 bytes" in ask(text, {}, "PATCH", path, bad)[1]["detail"]
    assert ask(text, {}, "PATCH", path, json.dumps({"signing_key": PUBLIC}).encode())[0] == 200
    assert ApiKey.objects.for_org(acme).get(pk=row.pk).signing_key == PUBLIC
    until = time.monotonic() + 1
    while time.monotonic() < until and ask(text, {}, "GET", path)[0] != 401:
        pass
    assert ask(text, {}, "GET", path)[0] == 401


def test_the_documented_client_is_let_in(acme: Organization, tmp_path: Path) -> None:
    client = runpy.run_path(str(settings.BASE_DIR / "docs" / "examples" / "signed_request.py"))
    signing_key = client["new_key"](tmp_path / "private.pem")
    assert (tmp_path / "private.pem").stat().st_mode & 0o777 == 0o600
    private = load_pem_private_key((tmp_path / "private.pem").read_bytes(), None)
    _, text = factories.api_key(
        acme, signing_key=signing_key, scopes=["keys", "inference", "usage"]
    )
    url, body = "http://testserver/api/v1/keys", json.dumps({"name": "x"}).encode()
    status, said, _ = ask(
        text, client["headers"](private, text, "POST", url, body), "POST", "/api/v1/keys", body
    )
    assert (status, said["param"]) == (403, "signing_key")
    headers = client["headers"](private, text, "GET", f"{url}?limit=1")
    assert ask(text, headers, "GET", "/api/v1/keys?limit=1")[0] == 200
