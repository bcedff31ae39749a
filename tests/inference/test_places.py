"""Where a request is, who goes first, and when its time is over."""

from typing import Any

import pytest

from inference.worker import Host
from kit.redis import state
from tenants.models import Organization
from tests import factories
from tests.inference.parts import ECHO, in_schema, serving
from tests.inference.test_api import post
from tests.inference.test_reading import ask, background

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def key(account: Any, acme: Organization) -> str:
    return factories.api_key(acme)[1]


async def job(key: str, request: str) -> Any:
    return (await ask("GET", f"/api/v1/jobs/{request}", key)).json()


async def send(key: str, **fields: Any) -> str:
    body = {"prompt": "hello", "background": True, **fields}
    answer = await ask("POST", "/api/v1/infer", key, body)
    assert answer.status_code == 202, answer.content
    return str(answer.json()["request_id"])


async def test_the_place_counts_the_more_urgent_and_takes_organizations_in_turn(
    key: str, host: Host, globex: Organization
) -> None:
    def theirs() -> str:
        factories.account(globex)
        return factories.api_key(globex)[1]

    other = await in_schema("public", theirs)
    mine = [await send(key) for _ in range(3)]
    others = [await send(other) for _ in range(2)]
    low = await send(key, priority="low")
    state().hset(f"queue:{ECHO}:pace", mapping={"most": 100, "ms": 1500})
    places = [(await job(key, each))["position"] for each in mine]
    assert places == [1, 3, 5]
    assert (await job(other, others[0]))["position"] in (1, 2)
    last = await job(key, low)
    assert (last["state"], last["position"], last["priority"]) == ("waiting", 6, "low")
    assert last["estimated_start_at"] > (await job(key, mine[0]))["estimated_start_at"]
    assert (await ask("GET", f"/api/v1/jobs/{mine[0]}", other)).status_code == 404
    with serving(host):
        found = await job(key, low)
        while found["state"] != "finished":
            found = await job(key, low)
    assert (found["position"], found["estimated_start_at"]) == (None, None)
    assert found["tokens"] > 0
    assert found["created_at"] <= found["started_at"] <= found["ended_at"]


async def test_the_history_knows_it_when_redis_does_not_any_more(key: str, host: Host) -> None:
    with serving(host):
        answer = await post("/api/v1/infer", {"prompt": "hello"}, key)
    request = answer.json()["request_id"]
    before = await job(key, request)
    state().delete(f"job:{request}", f"stream:{request}")
    after = await job(key, request)
    assert after["state"] == before["state"] == "finished"
    assert after["tokens"] == before["tokens"]


async def test_a_job_is_cancelled_by_its_id(key: str, host: Host) -> None:
    request = await background(key, "hello")
    answer = await ask("POST", f"/api/v1/jobs/{request}/cancel", key)
    assert answer.json() == {"request_id": request, "cancelled": True}
    assert (await job(key, request))["state"] == "cancelled"


async def test_nobody_is_more_urgent_than_their_organization(
    key: str, host: Host, acme: Organization
) -> None:
    assert (await job(key, await send(key, priority="high")))["priority"] == "normal"
    wrong = await ask("POST", "/api/v1/infer", key, {"prompt": "x", "priority": "urgent"})
    assert (wrong.status_code, wrong.json()["param"]) == (400, "priority")


async def test_an_answer_whose_time_is_over_ends_where_it_is(key: str, host: Host) -> None:
    request = await send(key, timeout=0.001)
    with serving(host):
        found = await job(key, request)
        while found["state"] in ("waiting", "running"):
            found = await job(key, request)
    said = (await ask("GET", f"/api/v1/requests/{request}", key)).json()
    while "finish_reason" not in said:
        said = (await ask("GET", f"/api/v1/requests/{request}", key)).json()
    assert said["finish_reason"] == "timeout"
    with serving(host):
        whole = await post("/api/v1/infer", {"prompt": "hello", "timeout": 60}, key)
    assert whole.json()["finish_reason"] == "stop"
