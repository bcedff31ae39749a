"""Versions side by side: chosen, told, counted; and what version 1 said yesterday it says today."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from analytics.rollups import counting
from inference.worker import Host
from tenants.models import Organization, Scope
from tests import factories
from tests.inference.clients import http as http
from tests.inference.parts import in_schema, serving

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis")]

STORED = Path(__file__).parents[1] / "contracts" / "v1.json"
"""What version 1 answered when it was written down; STORE_CONTRACT=1 writes it anew."""
PROMPT = {"prompt": "hello", "max_tokens": 8}


@pytest.fixture
def key(account: Any, acme: Organization) -> str:
    return factories.api_key(acme, scopes=list(Scope.values))[1]


async def ask(http: Any, key: str, method: str, path: str, body: Any = None, **more: str) -> Any:
    headers = {"Authorization": f"Bearer {key}", **more}
    return await http.request(method, path, json=body, headers=headers)


async def test_a_prompt_is_a_job_first_and_waited_for_where_that_is_preferred(
    http: Any, key: str, host: Host
) -> None:
    first = await ask(http, key, "POST", "/api/v2/infer", PROMPT)
    made = first.json()
    assert (first.status_code, made["data"]["state"], made["data"]["result"]) == (
        202,
        "waiting",
        None,
    )
    assert (made["data"]["position"], made["meta"]["version"]) == (1, "v2")
    where = first.headers["location"]
    assert where == made["data"]["url"] == f"/api/v2/jobs/{made['data']['job_id']}"
    with serving(host):
        waited = await ask(http, key, "POST", "/api/v2/infer", PROMPT, Prefer="wait=30")
        found = (await ask(http, key, "GET", where)).json()["data"]
        while found["result"] is None:
            found = (await ask(http, key, "GET", where)).json()["data"]
        stream = await ask(http, key, "GET", f"{where}/stream")
    assert (waited.status_code, waited.headers["preference-applied"]) == (200, "wait=30")
    for result in (waited.json()["data"]["result"], found["result"]):
        assert (result["text"], result["finish_reason"]) == ("hello", "stop")
        assert result["cost"]["amount_nanos"] > 0
    assert found["state"] == "finished"
    assert "event: done" in stream.text
    again = {"Idempotency-Key": "one"}
    one, two = [await ask(http, key, "POST", "/api/v2/infer", PROMPT, **again) for _ in range(2)]
    assert one.json()["data"]["job_id"] == two.json()["data"]["job_id"]
    over = await ask(http, key, "POST", "/api/v2/infer", PROMPT, Prefer="wait=600")
    assert (over.status_code, over.json()["param"]) == (400, "Prefer")


async def test_a_waiting_job_is_cancelled_and_says_so(http: Any, key: str, host: Host) -> None:
    made = (await ask(http, key, "POST", "/api/v2/infer", PROMPT)).json()["data"]
    cancelled = await ask(http, key, "POST", f"{made['url']}/cancel")
    assert cancelled.json()["data"]["state"] == "cancelled"
    assert (await ask(http, key, "GET", made["url"])).json()["data"]["result"] is None


async def test_lists_have_one_envelope_and_cursors(http: Any, key: str, host: Host) -> None:
    with serving(host):
        for _ in range(3):
            await ask(http, key, "POST", "/api/v2/infer", PROMPT, Prefer="wait=30")
    first = (await ask(http, key, "GET", "/api/v2/jobs?limit=2")).json()
    assert sorted(first) == ["data", "meta", "page"]
    cursor = first["page"]["next"]
    second = (await ask(http, key, "GET", f"/api/v2/jobs?limit=2&cursor={cursor}")).json()
    assert (len(first["data"]), len(second["data"]), second["page"]) == (2, 1, {"next": None})
    models = (await ask(http, key, "GET", "/api/v2/models")).json()
    one = (await ask(http, key, "GET", f"/api/v2/models/{models['data'][0]['name']}")).json()
    assert one["data"]["name"] == "echo"
    figures = (await ask(http, key, "GET", "/api/v2/analytics")).json()
    assert figures["data"]["span"] == "day"


@pytest.mark.parametrize(
    ("path", "accept", "version"),
    [
        ("/api/models", "*/*", "v1"),
        ("/api/models", "application/vnd.aip.v2+json", "v2"),
        ("/api/models", "application/vnd.aip.v1+json, */*", "v1"),
        ("/api/v1/models", "application/vnd.aip.v2+json", "v1"),
        ("/api/v2/models", "application/json", "v2"),
        ("/api/models", "application/vnd.aip.v9+json", None),
        ("/api/v9/models", "*/*", None),
    ],
)
async def test_the_path_says_the_version_before_accept_does(
    path: str, accept: str, version: str | None, http: Any, key: str, host: Host
) -> None:
    answer = await ask(http, key, "GET", path, Accept=accept)
    if version is None:
        assert (answer.status_code, answer.json()["code"]) == (406, "version_not_served")
        return
    assert answer.status_code == 200
    assert answer.headers["api-version"] == version
    assert ("meta" in answer.json()) == (version == "v2")
    assert (answer.headers.get("vary") == "Accept") == (path == "/api/models")


async def test_what_version_2_has_better_is_deprecated_with_the_way_to_it(
    http: Any, key: str, host: Host
) -> None:
    with serving(host):
        answer = await ask(http, key, "POST", "/api/v1/infer", PROMPT)
    assert answer.headers["deprecation"].startswith("@")
    assert answer.headers["sunset"] == "Thu, 25 Nov 2027 00:00:00 GMT"
    assert '</api/v2/infer>; rel="successor-version"' in answer.headers["link"]
    page = await http.get("/api/changes")
    assert "/api/v1/requests/{id}/cancel" in page.text
    for method, path in (("GET", "/api/v1/models"), ("GET", "/api/v2/models")):
        assert "deprecation" not in (await ask(http, key, method, path)).headers


CALLS: tuple[tuple[str, str, Any], ...] = (
    ("POST", "/api/v1/infer", {**PROMPT, "n": 2}),
    ("POST", "/api/v1/infer", {"prompt": ""}),
    ("POST", "/api/v1/infer", {**PROMPT, "background": True}),
    ("POST", "/api/v1/estimates", PROMPT),
    ("GET", "/api/v1/models", None),
    ("GET", "/api/v1/model/info", None),
    ("GET", "/api/v1/model/info?model=none", None),
    ("GET", "/api/v1/requests", None),
    ("GET", "/api/v1/requests/{request}", None),
    ("PUT", "/api/v1/requests/{request}/feedback", {"rating": "good", "comment": "yes"}),
    ("GET", "/api/v1/jobs/{request}", None),
    ("POST", "/api/v1/jobs/{request}/cancel", None),
    ("GET", "/api/v1/analytics?group_by=model", None),
    ("GET", "/api/v1/usage?group_by=model", None),
    ("GET", "/api/v1/cache", None),
    ("GET", "/api/v1/keys", None),
)


async def test_what_version_1_answered_it_answers_still(
    http: Any, key: str, host: Host, acme: Organization
) -> None:
    said, request = [], ""
    with serving(host):
        for method, path, body in CALLS:
            if "analytics" in path:
                await in_schema("public", lambda: counting.count(acme.schema_name))
            answer = await ask(http, key, method, path.format(request=request), body)
            request = request or answer.json().get("request_id", "")
            said.append(
                {"call": f"{method} {path}", "status": answer.status_code, "body": answer.json()}
            )
    if os.environ.get("STORE_CONTRACT"):
        STORED.parent.mkdir(exist_ok=True)
        STORED.write_text(json.dumps(said, indent=1) + "\n")
    stored = json.loads(STORED.read_text())
    assert [(each["call"], each["status"]) for each in stored] == [
        (each["call"], each["status"]) for each in said
    ]
    for before, now in zip(stored, said, strict=True):
        missing = list(lacking(before["body"], now["body"], before["call"]))
        assert missing == []


def lacking(before: Any, now: Any, where: str) -> Any:
    """The fields that an answer had and has no more, or has in another type."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name, value in before.items():
            if name not in now:
                yield f"{where}.{name} is gone"
            else:
                yield from lacking(value, now[name], f"{where}.{name}")
    elif isinstance(before, list) and isinstance(now, list):
        if before and now:
            yield from lacking(before[0], now[0], f"{where}[0]")
    elif _kind(before) != _kind(now) and None not in (before, now):
        yield f"{where} was {before!r}, and is {now!r}"


def _kind(value: Any) -> str:
    return (
        "number" if isinstance(value, int | float) and value is not True else type(value).__name__
    )
