"""PostgreSQL stops for a while: what was begun is delivered, and booked when it is back.

All of it over TLS, so that it ends with another outage: somebody else's certificate.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from config.stack.apart import Stack, running
from kit.embedded import Postgres, Valkey, free_port
from tests.tls import Authority, Front, authority

pytestmark = pytest.mark.timeout(400)


def ask(stack: Stack, prompt: str) -> httpx.Response:
    body = {"prompt": prompt, "background": True}
    return httpx.post(
        f"{stack.url}/api/v1/infer", json=body, headers=stack.authorization, timeout=60
    )


def answer(stack: Stack, request: str) -> dict[str, Any]:
    url = f"{stack.url}/api/v1/requests/{request}"
    found: dict[str, Any] = httpx.get(url, headers=stack.authorization, timeout=60).json()
    assert "state" in found, found
    return found


def until(true: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)


def test_answers_wait_for_a_database_that_is_away_and_are_booked_when_it_is_back(
    tmp_path: Path,
) -> None:
    right, wrong = authority(tmp_path / "right"), authority(tmp_path / "wrong")
    postgres = Postgres(tmp_path / "apart", port=free_port(), durable=False)
    valkey = Valkey(tmp_path / "state", port=free_port())
    fronts = Front(postgres.port, right, postgres=True), Front(valkey.port, right)
    try:
        for each in (postgres, valkey):
            each.start()
        with running(
            tmp_path,
            DATABASE_URL=postgres.url.replace(f":{postgres.port}/", f":{fronts[0].port}/")
            + f"?sslmode=verify-full&sslrootcert={right.ca}",
            REDIS_URL=valkey.url.replace("redis:", "rediss:", 1).replace(
                f":{valkey.port}/", f":{fronts[1].port}/"
            )
            + f"?ssl_ca_certs={right.ca}",
            DEFAULT_MODEL="echo",
            MODELS_DIR=str(tmp_path / "models"),
            BOOKS_BEHIND_SECONDS="6",
        ) as stack:
            _outlive(stack, postgres)
            assert [each.refused + each.plain for each in fronts] == [0, 0]
            _let_nobody_in(stack, fronts, wrong)
    finally:
        for front in fronts:
            front.close()
        for server in (postgres, valkey):
            server.stop()


def _let_nobody_in(stack: Stack, fronts: tuple[Front, Front], wrong: Authority) -> None:
    """No process of the platform speaks to whoever has another CA's certificate."""
    for each in fronts:
        each.show(wrong)
        each.cut()
    until(lambda: _health(stack) == (503, "unavailable"))
    opened = [each.opened for each in fronts]
    tried = [each.refused for each in fronts]
    until(lambda: all(e.refused > n + 5 for e, n in zip(fronts, tried, strict=True)))
    assert [each.opened for each in fronts] == opened


def _outlive(stack: Stack, postgres: Postgres) -> None:
    first = ask(stack, "before").json()["request_id"]
    until(lambda: answer(stack, first)["state"] == "done")
    until(lambda: _is_remembered(stack))
    postgres.stop()
    during = ask(stack, "while it is away").json()["request_id"]
    until(lambda: answer(stack, during)["state"] == "sealed")
    assert answer(stack, during)["text"] == "while it is away"
    until(lambda: _health(stack) == (200, "degraded"))

    until(lambda: ask(stack, "too late").status_code == 503)
    refusal = ask(stack, "too late")
    assert refusal.json()["code"] == "books_behind"
    assert int(refusal.headers["Retry-After"]) > 0
    until(lambda: _health(stack) == (503, "unavailable"))
    for path in ("/accounts/login/", "/o/", "/admin/", f"/o/{'x' * 8}/keys/"):
        page = httpx.get(f"{stack.url}{path}", cookies={"sessionid": "s" * 32}, timeout=30)
        assert (page.status_code, page.headers.get("Retry-After")) == (503, "5"), path
        assert "database does not answer" in page.text

    postgres.start()
    until(lambda: answer(stack, during)["state"] == "done")
    tokens = "SELECT (units->>'output_tokens')::int FROM billing_ledgerentry WHERE request = %s"
    assert stack.rows(tokens, during) == [(len("while it is away") + 1,)]
    until(lambda: ask(stack, "again").status_code == 202)
    until(lambda: _health(stack) == (200, "ok"))


def _health(stack: Stack) -> tuple[int, str]:
    found = httpx.get(f"{stack.url}/health", timeout=30)
    return found.status_code, found.json()["status"]


def _is_remembered(stack: Stack) -> bool:
    """Whether the state has the key and its organization. They were made moments ago, and the marks
    of that would stand for half a minute."""
    with redis.Redis.from_url(stack.redis_url) as state:
        names = [f"key:{stack.key.split('_')[2]}".encode(), *state.scan_iter("organization:*")]
        for name in names:
            if state.get(name) == b"":
                state.delete(name)
        ask(stack, "remember me")
        return all(state.get(name) for name in names)
