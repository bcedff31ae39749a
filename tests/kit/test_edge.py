"""Bodies are read strictly, and every refusal names the field and the way out."""

import json
from typing import Any

import orjson
import psycopg
import pytest
from django.db import InternalError
from django.db import OperationalError as DatabaseError
from django.http import HttpRequest
from django.test import AsyncRequestFactory
from django_redis.exceptions import ConnectionInterrupted
from kombu.exceptions import OperationalError as BrokerAway
from pydantic import BaseModel, ConfigDict, Field
from redis.exceptions import RedisError

from kit import edge
from kit.errors import Invalid, Refused, Unavailable


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str = Field(min_length=1)
    max_tokens: int | None = None


def test_a_fitting_body_becomes_the_form() -> None:
    assert edge.parse(b'{"prompt": "hi", "max_tokens": 3}', Form) == Form(prompt="hi", max_tokens=3)


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        (b"", "body", "not JSON"),
        (b"{", "body", "not JSON"),
        (b"[]", "body", "must be a JSON object"),
        (b'"text"', "body", "must be a JSON object"),
        (b"{}", "prompt", "required"),
        (b'{"prompt": 7}', "prompt", "got 7"),
        (b'{"prompt": ""}', "prompt", "at least 1 character"),
        (b'{"prompt": "hi", "max_tokens": "many"}', "max_tokens", "got 'many'"),
        (b'{"prompt": "hi", "promt": "hi"}', "promt", "Unknown field 'promt'"),
        (b'{"prompt": ' + b"[" * 40 + b"]" * 40 + b"}", "body", "deeper than 32"),
        (b'{"prompt": [' + b"9, " * 200 + b"9]}", "prompt", "…"),
    ],
)
def test_a_body_that_does_not_fit_is_refused_by_name(body: bytes, param: str, said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        edge.parse(body, Form)
    assert refusal.value.param == param
    assert said in refusal.value.message
    assert len(refusal.value.message) < 300


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        RedisError("No connection available."),
        chained(ConnectionInterrupted(connection=None), RedisError("the cache's")),
        chained(BrokerAway("the broker's"), RedisError("refused")),
        DatabaseError("couldn't get a connection after 10.00 sec"),
        chained(InternalError("now a standby"), psycopg.errors.ReadOnlySqlTransaction()),
        psycopg.OperationalError("the connection is closed"),
        psycopg.InterfaceError("the cursor is closed"),
    ],
    ids=lambda error: type(error).__module__,
)
def test_a_server_of_ours_that_does_not_answer_is_no_fault_of_the_request(error: Exception) -> None:
    refusal = edge.refusal_of(error)
    assert (refusal.status, refusal.code) == (503, "unavailable")
    assert refusal.retry_after
    assert edge.refusal_of(InternalError("transaction is aborted")).status == 500


async def test_a_large_body_is_read_off_the_event_loop() -> None:
    request = HttpRequest()
    request._body = orjson.dumps({"prompt": "x" * 100_000})
    assert len((await edge.body(request, Form)).prompt) == 100_000


def test_openais_clients_get_openais_error_body() -> None:
    status, headers, content = edge.rendered("/v1/models", Invalid("No.", param="model"), "r1")
    assert (status, headers["Content-Type"]) == (400, "application/json")
    assert json.loads(content) == {
        "error": {
            "message": "No.",
            "type": "invalid_request_error",
            "param": "model",
            "code": "invalid_value",
        }
    }


def test_other_paths_get_a_problem_with_the_request_id() -> None:
    refusal = Unavailable("Not now.", retry_after=1.2)
    status, headers, content = edge.rendered("/api/v1/infer", refusal, "r1")
    assert (status, headers["Content-Type"]) == (503, "application/problem+json")
    assert headers["Retry-After"] == "2"
    assert json.loads(content) == {
        "type": "about:blank",
        "title": "Unavailable",
        "status": 503,
        "detail": "Not now.",
        "code": "unavailable",
        "request_id": "r1",
        "retry_after": 2,
    }


def test_whoever_is_told_that_we_are_away_is_told_when_to_come_back() -> None:
    status, headers, _ = edge.rendered("/v1/models", Unavailable("Not now."), "r1")
    assert (status, headers["Retry-After"]) == (503, "1")


@pytest.mark.parametrize("path", ["/v1/models", "/api/v1/infer"])
def test_a_refusals_own_headers_go_with_the_answer(path: str) -> None:
    refusal = Unavailable("Not now.", headers={"x-ratelimit-limit-requests": "5"})
    _, headers, _ = edge.rendered(path, refusal, "r1")
    assert headers["x-ratelimit-limit-requests"] == "5"
    assert "json" in headers["Content-Type"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, "authentication_error"),
        (402, "insufficient_quota"),
        (403, "permission_error"),
        (404, "invalid_request_error"),
        (429, "rate_limit_error"),
        (503, "server_error"),
    ],
)
def test_openais_error_types_follow_the_status(status: int, kind: str) -> None:
    refusal = type("Some", (Refused,), {"status": status})("No.")
    assert edge.openai_body(refusal)["error"]["type"] == kind


class Greeting(edge.Endpoint):
    async def get(self, request: HttpRequest) -> edge.Json:
        return edge.Json({"hello": "world"})

    async def post(self, request: HttpRequest) -> edge.Json:
        raise RuntimeError("secret detail")


@pytest.mark.parametrize(
    ("method", "status", "code"),
    [("GET", 200, None), ("POST", 500, "internal_error"), ("PUT", 405, "method_not_allowed")],
)
async def test_an_endpoint_answers_whatever_happens(
    method: str, status: int, code: str | None
) -> None:
    request = AsyncRequestFactory().generic(method, "/api/x")
    answering: Any = Greeting.as_view()(request)
    response = await answering
    assert response.status_code == status
    answer = json.loads(response.content)
    assert answer.get("code") == code
    assert "secret" not in response.content.decode()
