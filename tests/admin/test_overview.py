"""The admin's first page, its side bar and its search."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from django.contrib.auth.models import Permission
from django.db import OperationalError
from django.test import Client
from redis import Redis
from redis.exceptions import ConnectionError as RedisDown

from analytics import overview
from inference.catalog import offers
from inference.catalog.models import Model
from inference.history import Row
from tenants.models import Organization
from tests import factories
from tests.billing.rows import entry
from tests.billing.test_ledger import booked


@pytest.fixture
def used(acme: Organization, globex: Organization) -> None:
    """Two requests of acme's and one of globex's, today."""
    now = datetime.now(UTC)
    for of in (acme, globex):
        factories.account(of)
    amounts = {"input_tokens": 1_000, "output_tokens": 500}
    rows = [entry(of.pk, amounts=amounts, at=now) for of in (acme, acme, globex)]
    booked(*rows, now=now)


@pytest.fixture
def model(db: None) -> Model:
    offers.forget()
    return Model.objects.create(
        name="small",
        title="Small",
        backend="echo",
        folder="small",
        version="v1",
        context=4096,
        published=True,
    )


def report(redis: Redis, **fields: Any) -> None:
    """A worker that says it is there."""
    told = {"well": True, "running": 3, "prompt_tokens": 100, "cached_tokens": 25, **fields}
    redis.sadd("workers", "w1", "gone")
    redis.set("worker:w1", orjson.dumps({"small": told}))


def test_it_shows_what_was_used_and_who_serves(
    operator: Client, redis: Redis, used: None, model: Model
) -> None:
    report(redis)
    redis.zadd("queue:small", {"a": 1, "b": 2})
    answer = operator.get("/admin/")
    shown = answer.context["overview"]
    assert (shown.organizations, shown.suspended) == (2, 0)
    assert shown.today == shown.this_month
    assert (shown.today.requests, shown.today.amount) == (3, "EUR 0.0000045")
    assert [(part.slug, part.use.requests) for part in shown.top] == [("acme", 2), ("globex", 1)]
    [health] = answer.context["models"]
    assert (health.state, health.serving, health.running, health.waiting) == ("serving", 1, 3, 2)
    page = answer.content.decode()
    assert "25% of prompt tokens were cached" in page
    assert "?organization=acme" in page


def test_an_empty_installation_has_a_page_too(operator: Client) -> None:
    offers.forget()
    page = operator.get("/admin/").content.decode()
    assert "Nothing was used yet." in page
    assert "nothing can be served" in page


def test_a_published_model_that_nobody_serves_is_down(operator: Client, model: Model) -> None:
    assert [each.state for each in operator.get("/admin/").context["models"]] == ["down"]


def test_without_redis_the_page_says_so(
    operator: Client, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down() -> None:
        raise RedisDown

    monkeypatch.setattr("config.dashboard.fleet_now", down)
    assert "Redis does not answer" in operator.get("/admin/").content.decode()


def test_a_ledger_too_large_to_add_up_leaves_the_page_without_sums(
    operator: Client, used: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*args: Any) -> None:
        raise OperationalError("canceling statement due to statement timeout")

    monkeypatch.setattr(overview, "_by_organization", slow)
    page = operator.get("/admin/").content.decode()
    assert "took too long to add up" in page
    assert "too many to add up here" in page


def test_it_takes_few_queries(
    operator: Client, used: None, model: Model, django_assert_max_num_queries: Any
) -> None:
    operator.get("/admin/")
    with django_assert_max_num_queries(22):  # half of them set the search path
        operator.get("/admin/")


def test_the_side_bar_shows_what_one_may_see(client: Client, redis: Redis, db: None) -> None:
    clerk = factories.user("clerk", is_staff=True)
    clerk.user_permissions.add(Permission.objects.get(codename="view_invoice"))
    client.force_login(clerk)
    page = client.get("/admin/").content.decode()
    links = set(re.findall(r'<li>\s*<a href="(/admin/[^"?]*)"', page))
    assert links == {"/admin/", "/admin/billing/invoice/"}


@pytest.mark.parametrize(
    ("app", "model"), [("django_celery_results", "taskresult"), ("auth", "group")]
)
def test_the_platforms_own_lists_open(operator: Client, app: str, model: str) -> None:
    assert operator.get(f"/admin/{app}/{model}/").status_code == 200
    assert operator.get("/admin/django_celery_results/groupresult/").status_code == 404


def test_search_finds_jobs_keys_organizations_and_people(
    operator: Client, used: None, acme: Organization, job: Callable[..., Row]
) -> None:
    key, _ = factories.api_key(acme, name="ci")
    factories.user("dora")
    [row] = booked(entry(acme.pk))
    for term, link in (
        (str(row), f"/admin/inference/request/{row}/change/?organization=acme"),
        (key.pk, f"/admin/tenants/apikey/{key.pk}/change/"),
        ("acm", f"/admin/tenants/organization/{acme.pk}/change/"),
        ("dora@", "/admin/tenants/user/"),
    ):
        page = operator.get("/admin/search/", {"s": term, "extended": "1"}).content.decode()
        assert link in page.replace("&amp;", "&"), term


def test_search_shows_nothing_that_one_may_not_see(
    client: Client, redis: Redis, used: None, acme: Organization
) -> None:
    client.force_login(factories.user("clerk", is_staff=True))
    page = client.get("/admin/search/", {"s": "acme", "extended": "1"}).content.decode()
    assert "/change/" not in page
