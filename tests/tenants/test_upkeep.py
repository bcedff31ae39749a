"""What runs no model is counted by organization, in time, and in nobody else's way."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any, cast
from uuid import uuid4

import pytest
from django.db import connection
from django.test import AsyncClient, Client
from django.urls import get_resolver
from redis import Redis

from billing.api.invoices import Invoices
from inference.api.access import InferenceEndpoint
from kit import redis as kit_redis
from kit import threads
from kit.edge import Endpoint
from kit.redis import async_state
from kit.statements import as_lent, in_time
from kit.threads import in_thread, take_lane
from tenants import upkeep
from tenants.api.access import ManagedEndpoint
from tenants.limits import LimitReached
from tenants.models import Organization, User
from tests import factories

pytestmark = [pytest.mark.usefixtures("redis"), pytest.mark.django_db(transaction=True)]


def asked(text: str, *paths: str) -> list[Any]:
    """The answers to requests at once."""

    async def run() -> list[Any]:
        headers = {"Authorization": f"Bearer {text}"}
        client = AsyncClient()
        try:
            return list(await asyncio.gather(*(client.get(p, headers=headers) for p in paths)))
        finally:
            await async_state().aclose()

    return asyncio.run(run())


def test_an_organization_asks_so_much_a_minute_over_all_its_keys(
    acme: Organization, globex: Organization, settings: Any
) -> None:
    settings.MANAGEMENT_PER_MINUTE = 2
    first, second, bobs = (factories.api_key(of)[1] for of in (acme, acme, globex))
    [well] = asked(first, "/api/v1/invoices")
    assert (well.status_code, well["x-ratelimit-remaining-requests"]) == (200, "1")
    assert asked(second, "/api/v1/usage")[0].status_code == 200
    [refused] = asked(first, "/api/v1/analytics")
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limit_exceeded")
    assert 0 < int(refused["Retry-After"]) <= 60
    assert refused["x-ratelimit-limit-requests"] == "2"
    assert asked(bobs, "/api/v1/invoices")[0].status_code == 200
    assert asked(first, "/v1/files")[0].status_code == 429


def test_so_much_at_once_and_whoever_has_left_makes_room(settings: Any, redis: Redis) -> None:
    settings.MANAGEMENT_AT_ONCE = 2

    async def run() -> None:
        here = [uuid4(), uuid4()]
        for each in here:
            await upkeep.enter(7, each)
        with pytest.raises(LimitReached, match="requests at the same time"):
            await upkeep.enter(7, uuid4())
        await upkeep.enter(8, uuid4())
        await upkeep.leave(7, here[0])
        await upkeep.enter(7, uuid4())
        await async_state().aclose()

    asyncio.run(run())
    assert 0 < redis.pttl("limits:management:7:running") <= 120_000


def test_who_asks_much_at_once_takes_no_more_than_half_of_the_threads() -> None:
    """Six slow readings of one organization: another's, and a request to a model, do not wait."""

    async def of(whose: int | None, seconds: float) -> float:
        if whose is not None:
            take_lane(whose)
        started = time.monotonic()
        await in_thread(time.sleep, seconds)
        return time.monotonic() - started

    async def run() -> tuple[float, float]:
        crowd = [asyncio.create_task(of(1, 0.5)) for _ in range(6)]
        await asyncio.sleep(0)
        waited = await asyncio.gather(of(2, 0), of(None, 0))
        for each in crowd[3:]:
            each.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
        return waited[0], waited[1]

    assert max(asyncio.run(run())) < 0.45


def test_a_place_falls_free_when_the_work_ends_not_when_its_caller_leaves() -> None:
    async def run() -> float:
        take_lane("somebody")
        left = [asyncio.create_task(in_thread(time.sleep, 0.3)) for _ in range(2)]
        await asyncio.sleep(0.05)
        for each in left:
            each.cancel()
        started = time.monotonic()
        await in_thread(time.sleep, 0)
        assert not threads._of_loop[asyncio.get_running_loop()].get("nobody")
        return time.monotonic() - started

    assert asyncio.run(run()) > 0.15


def test_what_takes_the_database_too_long_is_stopped_and_says_so(
    acme: Organization, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MANAGEMENT_SECONDS = 1

    def slow(*_: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(30)")

    monkeypatch.setattr("billing.api.invoices._page", slow)
    [refused] = asked(factories.api_key(acme)[1], "/api/v1/invoices")
    assert (refused.status_code, refused.json()["code"]) == (503, "query_timed_out")
    assert "longer than 1 s" in refused.json()["detail"]


def test_pages_are_counted_with_it_and_stopped_like_it(
    alice: User, client: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MANAGEMENT_SECONDS = 1
    settings.MANAGEMENT_PER_MINUTE = 2
    client.force_login(alice)
    assert client.get("/o/acme/members").status_code == 200

    def slow(*_: Any, **__: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(30)")

    monkeypatch.setattr("tenants.keyring.listed", slow)
    stopped = client.get("/o/acme/keys")
    assert (stopped.status_code, "longer than 1 s" in stopped.content.decode()) == (503, True)
    refused = client.get("/o/acme/members")
    assert (refused.status_code, "Try again in" in refused.content.decode()) == (429, True)
    connection.ensure_connection()


def test_what_is_done_stays_done_where_redis_is_not_told_who_left(
    monkeypatch: pytest.MonkeyPatch, redis: Redis
) -> None:
    done = []
    with upkeep.entered(7, uuid4()):
        monkeypatch.setattr(kit_redis, "state", lambda: Redis(port=1))
        done.append("a page's work")
    assert done


def test_a_connection_that_is_lent_again_is_in_no_hurry() -> None:
    def timeout() -> str:
        with connection.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            return str(cursor.fetchone()[0])

    with in_time():
        assert timeout() == "20s"
        as_lent(connection.connection)
        assert timeout() == "0"
    with in_time():
        pass
    assert timeout() == "0"


OTHERS = {
    "LogInEndpoint": "throttled by account and address",
    "Renewal": "by a token, once",
    "LogOut": "by a token, once",
    "LeakReport": "throttled by address",
    "Myself": "a person's own rows",
    "Sessions": "a person's own rows",
    "OneSession": "a person's own rows",
    "Acceptance": "by a letter's token",
    "StripeEvents": "signed by Stripe",
    "CertificateKeys": "a few rows that are the same for everybody",
}
"""Endpoints of no organization, and why they need not be counted here."""
MODELS = {
    "ChatCompletions", "Completions", "Embeddings", "Infer", "InferStream", "JobsOfPrompts",
    "Moderations", "PlainEmbeddings", "Responses", "Similarity",
}  # fmt: skip


def endpoints(of: Any) -> Iterator[type[Endpoint]]:
    for each in of.url_patterns:
        if hasattr(each, "url_patterns"):
            yield from endpoints(each)
        elif issubclass(view := getattr(each.callback, "cls", object), Endpoint):
            yield cast(type[Endpoint], view)


def test_every_endpoint_is_counted_here_or_as_a_request_to_a_model() -> None:
    found = set(endpoints(get_resolver()))
    assert Invoices in found
    assert {each.__name__ for each in found if not issubclass(each, ManagedEndpoint)} == {*OTHERS}
    running = {each for each in found if issubclass(each, ManagedEndpoint) and each.runs_models}
    assert all(issubclass(each, InferenceEndpoint) for each in running)
    assert {each.__name__ for each in running} == MODELS
