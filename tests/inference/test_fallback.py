"""A model that is not healthy, and the one that serves in its place."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from django.core.exceptions import ValidationError
from django.test import AsyncClient
from redis import Redis

from billing.models import LedgerEntry
from inference.catalog import offers
from inference.catalog.models import Model
from inference.models import Request
from inference.worker import Host
from inference.worker.breaker import FAILURES, SECONDS, Breaker
from tenants.models import Organization
from tests import factories
from tests.inference.parts import ECHO, add_model, in_schema, serving
from tests.inference.test_api import CHAT, post
from tests.inference.test_worker import until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def key(account: Any, acme: Organization) -> str:
    """Acme's program's key."""
    return factories.api_key(acme)[1]


@pytest.fixture
def chain(key: str, tmp_path: Path) -> None:
    """`large` falls back to `middle`, that to echo; each is dearer than the next."""
    before = Model.objects.get(name=ECHO)
    for name, times in (("middle", 10), ("large", 100)):
        model = add_model(tmp_path, name=name, times=times)
        model.fallback, before = before, model
        model.save()
    offers.forget()


def report(redis: Redis, **models: Any) -> None:
    """A worker's word on its models: well, ill or failing."""
    said = {
        model: {
            "well": state != "ill",
            "failing": state == "failing",
            "running": 0,
            "prompt_tokens": 0,
            "cached_tokens": 0,
        }
        for model, state in models.items()
    }
    redis.sadd("workers", "another")
    redis.set("worker:another", orjson.dumps(said))


async def get(path: str, key: str) -> Any:
    return await AsyncClient().get(path, headers={"Authorization": f"Bearer {key}"})


@pytest.mark.parametrize("state", ["ill", "failing", "absent"])
async def test_a_model_that_is_not_healthy_is_replaced_and_the_one_that_served_is_billed(
    chain: None, key: str, host: Host, redis: Redis, state: str
) -> None:
    report(redis, **({} if state == "absent" else {"large": state}))
    await reported(host, redis)
    with serving(host):
        response = await post("/v1/chat/completions", CHAT | {"model": "large"}, key)
    answer = response.json()
    assert answer["model"] == ECHO
    assert answer["system_fingerprint"] == "fp_1"
    assert response["X-Model-Fallback"] == "large"
    entry = await in_schema("public", lambda: LedgerEntry.objects.across_organizations().get())
    assert entry.model == ECHO
    assert (
        entry.amount
        == answer["usage"]["total_tokens"] * 1000 + 1000 * (answer["usage"]["completion_tokens"])
    )
    row = await in_schema("org_acme", Request.objects.get)
    assert (row.model, row.amount) == (ECHO, entry.amount)


async def reported(host: Host, redis: Redis) -> None:
    """The host's own word has come."""
    await asyncio.to_thread(until, lambda: bool(redis.exists(f"worker:{host.name}")))


async def test_the_next_of_the_chain_that_is_healthy_serves(
    chain: None, key: str, redis: Redis, announced: list[str]
) -> None:
    report(redis, large="ill", middle="well", echo="well")
    response = await start(key, "large")
    assert (response.status_code, response["X-Model-Fallback"]) == (200, "large")
    assert announced == ["middle"]


async def start(key: str, model: str, **headers: str) -> Any:
    """Begin a stream; nobody has to serve it."""
    return await post("/api/v1/infer/stream", {"prompt": "hi", "model": model}, key, **headers)


async def test_a_healthy_model_serves_itself(
    chain: None, key: str, redis: Redis, announced: list[str]
) -> None:
    report(redis, large="well", echo="well")
    response = await start(key, "large")
    assert "X-Model-Fallback" not in response
    assert announced == ["large"]


async def test_where_none_is_healthy_the_request_waits_for_the_one_asked_for(
    chain: None, key: str, redis: Redis, announced: list[str]
) -> None:
    await start(key, "large")
    assert announced == ["large"]


async def test_a_caller_may_refuse_any_other_model(
    chain: None, key: str, redis: Redis, announced: list[str]
) -> None:
    report(redis, echo="well")
    await start(key, "large", **{"X-Model-Fallback": "never"})
    assert announced == ["large"]
    response = await start(key, "large", **{"X-Model-Fallback": "maybe"})
    assert (response.status_code, response.json()["param"]) == (400, "X-Model-Fallback")


async def test_a_key_is_served_by_no_model_that_it_may_not_use(
    chain: None, acme: Organization, redis: Redis, announced: list[str]
) -> None:
    report(redis, middle="well", echo="well")
    bound = await in_schema("public", lambda: factories.api_key(acme, models=["large", ECHO])[1])
    await start(bound, "large")
    assert announced == [ECHO]


async def test_a_stand_in_that_cannot_take_the_request_is_passed_over(
    chain: None, key: str, redis: Redis, announced: list[str]
) -> None:
    report(redis, middle="well", echo="well")
    await in_schema("public", lambda: Model.objects.filter(name="middle").update(context=16))
    offers.forget()
    response = await post("/api/v1/infer/stream", {"prompt": "x" * 40, "model": "large"}, key)
    assert response.status_code == 200
    assert announced == [ECHO]


async def test_the_same_request_again_says_who_served_it(
    chain: None, key: str, host: Host, redis: Redis
) -> None:
    await reported(host, redis)
    body, once = CHAT | {"model": "large"}, {"Idempotency-Key": "mine"}
    with serving(host):
        first = await post("/v1/chat/completions", body, key, **once)
    report(redis, large="well")
    second = await post("/v1/chat/completions", body, key, **once)
    assert second["X-Model-Fallback"] == "large"
    assert second.json() == first.json()


async def test_models_tell_their_state_and_who_stands_in(
    chain: None, key: str, redis: Redis
) -> None:
    report(redis, large="failing", echo="well")
    found = {each["name"]: each for each in (await get("/api/v1/models", key)).json()["models"]}
    assert {name: each["state"] for name, each in found.items()} == {
        "large": "failing",
        "middle": "down",
        ECHO: "serving",
    }
    assert found["large"]["fallbacks"] == ["middle", ECHO]
    assert not found["large"]["healthy"]


async def test_a_model_that_fails_again_and_again_says_so_and_one_answer_cures_it(
    key: str, host: Host, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    station = host._stations[ECHO]

    def refuses(work: object) -> None:
        raise RuntimeError("out of order")

    with monkeypatch.context() as broken, serving(host):
        broken.setattr(station.engine, "submit", refuses)
        for _ in range(FAILURES):
            assert not station.breaker.is_open
            assert (await post("/v1/chat/completions", CHAT, key)).status_code == 500
    assert station.breaker.is_open
    with serving(host):
        assert (await post("/v1/chat/completions", CHAT, key)).status_code == 200
    assert not station.breaker.is_open


def test_a_breaker_is_tried_again_after_a_while_and_opens_at_the_next_failure() -> None:
    now = [0.0]
    breaker = Breaker(clock=lambda: now[0])
    for _ in range(FAILURES):
        assert not breaker.is_open
        breaker.failed()
    assert breaker.is_open
    now[0] += SECONDS
    assert not breaker.is_open
    breaker.failed()
    assert breaker.is_open


def test_fall_backs_in_a_circle_are_refused(chain: None) -> None:
    echo = Model.objects.get(name=ECHO)
    echo.fallback = Model.objects.get(name="large")
    with pytest.raises(ValidationError, match="large → middle → echo"):
        echo.full_clean()
    echo.save()
    offers.forget()
    assert offers.published()[ECHO].fallbacks == ("large", "middle")


def test_what_is_not_published_stands_in_for_nothing(chain: None) -> None:
    Model.objects.filter(name="middle").update(published=False)
    offers.forget()
    assert offers.published()["large"].fallbacks == (ECHO,)
