"""The log of requests: one line each, no secret in it, and none of whoever wants nothing kept."""

import asyncio
import json
from io import StringIO
from typing import Any

import pytest

from inference.worker import Host
from kit.redaction import redacted
from tenants import audit, organizations
from tenants.models import Organization, Retention
from tests import factories
from tests.inference.parts import NOW, in_schema, serving
from tests.inference.test_reading import ask

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def key(account: Any, acme: Organization) -> str:
    return factories.api_key(acme)[1]


async def lines(
    log_lines: StringIO, host: Host, key: str, prompt: str = "write to ann@example.com"
) -> tuple[str, list[str]]:
    """A request's id, and the log's lines of requests after it."""
    with serving(host):
        body = {"prompt": prompt, "max_tokens": 64}
        answer = await ask("POST", "/api/v1/infer", key, body, **{"X-Request-ID": "mine-7"})
        assert answer.status_code == 200, answer.content
    # The line comes behind the answer; a worker that is drained has written all of them.
    await asyncio.to_thread(host.drain, 5)
    found = [line for line in log_lines.getvalue().splitlines() if "amount_nanos" in line]
    return answer.json()["request_id"], found


async def test_a_request_is_one_line_under_its_id_and_its_callers(
    log_lines: StringIO, host: Host, key: str, settings: Any
) -> None:
    settings.REQUEST_LOG = "figures"
    request, [line] = await lines(log_lines, host, key)
    for part in (request, "mine-7", "echo", "finished", "latency_ms"):
        assert part in line
    assert "ann@" not in line
    assert "asked" not in line


async def test_texts_are_of_those_who_keep_them_and_redacted(
    log_lines: StringIO, host: Host, key: str, settings: Any, acme: Organization
) -> None:
    settings.REQUEST_LOG = "texts"
    await in_schema("public", lambda: keep(acme, Retention.TEXTS))
    _, [line] = await lines(log_lines, host, key)
    assert line.count("write to [email]") == 2
    assert "ann@" not in line


async def test_texts_that_are_not_kept_are_not_logged(
    log_lines: StringIO, host: Host, key: str, settings: Any
) -> None:
    settings.REQUEST_LOG = "texts"
    _, [line] = await lines(log_lines, host, key)
    assert "write to" not in line


def keep(acme: Organization, retention: Retention) -> None:
    organizations.keep(acme, retention, days=7, now=NOW, by=audit.SYSTEM)


@pytest.mark.parametrize("depth", ["off", "figures", "texts"])
async def test_of_whoever_wants_nothing_kept_there_is_no_line(
    depth: str, log_lines: StringIO, host: Host, key: str, settings: Any, acme: Organization
) -> None:
    settings.REQUEST_LOG = depth
    await in_schema("public", lambda: keep(acme, Retention.NOTHING))
    assert (await lines(log_lines, host, key))[1] == []


async def test_it_is_off_unless_somebody_wants_it(
    log_lines: StringIO, host: Host, key: str
) -> None:
    assert (await lines(log_lines, host, key))[1] == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("to ann.b+c@mail.example.com!", "to [email]!"),
        ("card 4111 1111 1111 1111, ok", "card [card], ok"),
        ("card 4111-1111-1111-1112", "card [number]"),
        ("call +49 30 1234567 now", "call [number] now"),
        ("DE89 3704 0044 0532 0130 00", "[iban]"),
        ("in 2026 there were 1,234,567 of 42", "in 2026 there were 1,234,567 of 42"),
        ("2026-11-24", "2026-11-24"),
        ("sk-" + "x" * 20, "sk-…"),
        (json.dumps({"a": "b"}), '{"a": "b"}'),
    ],
)
def test_what_looks_like_somebodys_is_masked(text: str, shown: str) -> None:
    assert redacted(text) == shown
