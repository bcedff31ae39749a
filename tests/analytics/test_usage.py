"""GET /api/v1/usage."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import AsyncClient
from redis import Redis

from billing.models import Account
from tenants.models import Scope
from tests import factories
from tests.billing.rows import NOW, account, entry
from tests.billing.test_ledger import booked

pytestmark = [
    pytest.mark.urls("tests.analytics.urls"),
    pytest.mark.django_db(transaction=True),
]


@pytest.fixture
def acme(transactional_db: None, redis: Redis) -> Account:
    """Alice's."""
    return account("acme")


@pytest.fixture
def globex(transactional_db: None, redis: Redis) -> Account:
    """Bob's."""
    return account("globex")


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analytics.api.usage.timezone.now", lambda: NOW)


@pytest.fixture
def key(acme: Account) -> str:
    """Of acme's."""
    return factories.api_key(acme.organization)[1]


async def ask(key: str | None, **query: str) -> Any:
    """The endpoint's answer."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return await AsyncClient().get("/api/v1/usage", query, headers=headers)


def written(of: Account, *others: Account) -> list[str]:
    """23 rows of acme's, the newest last, and one each of the others."""
    mine = [
        entry(of.organization_id, at=NOW + timedelta(seconds=n), label=f"r{n}") for n in range(22)
    ]
    mine.append(entry(of.organization_id, at=NOW + timedelta(seconds=22), model="big"))
    booked(*mine, *(entry(each.organization_id) for each in others))
    return [str(each.request) for each in mine]


@pytest.fixture
def requests(acme: Account, globex: Account) -> list[str]:
    """What acme used this month."""
    return written(acme, globex)


async def test_the_running_month_is_summed_by_model_for_this_organization_alone(
    key: str, requests: list[str]
) -> None:
    answer = await ask(key)
    said = answer.json()
    assert answer.status_code == 200
    assert (said["organization"], said["month"], said["currency"]) == ("acme", "2026-11", "EUR")
    assert said["totals"] == {
        "requests": 23,
        "input_tokens": 230,
        "output_tokens": 115,
        "amount": "0.000103500",
        "amount_nanos": 103_500,
    }
    assert [(each["model"], each["requests"]) for each in said["models"]] == [
        ("big", 1),
        ("echo", 22),
    ]
    assert sum(each["amount_nanos"] for each in said["models"]) == 103_500


async def test_the_last_twenty_requests_are_told(key: str, requests: list[str]) -> None:
    recent = (await ask(key)).json()["recent"]
    assert [each["request"] for each in recent] == requests[:2:-1]
    assert recent[1] == {
        "request": requests[21],
        "model": "echo",
        "state": "finished",
        "units": {"input_tokens": 10, "output_tokens": 5},
        "amount": "0.000004500",
        "amount_nanos": 4_500,
        "label": "r21",
        "created_at": "2026-11-24T12:00:00+00:00",
    }


async def test_another_month_is_empty(key: str, requests: list[str]) -> None:
    said = (await ask(key, month="2026-10")).json()
    assert (said["month"], said["totals"]["requests"], said["recent"]) == ("2026-10", 0, [])


@pytest.mark.parametrize("month", ["", "2026-13", "november", "2026-11-01"])
async def test_a_month_that_is_none_is_refused_by_name(key: str, month: str) -> None:
    answer = await ask(key, month=month)
    assert answer.status_code == 400
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["param"] == "month"


async def test_usage_is_grouped_by_what_is_asked_for(key: str, requests: list[str]) -> None:
    said = (await ask(key, group_by="model,meter")).json()
    assert [(each["of"], each["amount_nanos"]) for each in said["groups"]] == [
        ({"model": "big", "meter": "input_tokens"}, 1_500),
        ({"model": "big", "meter": "output_tokens"}, 3_000),
        ({"model": "echo", "meter": "input_tokens"}, 33_000),
        ({"model": "echo", "meter": "output_tokens"}, 66_000),
    ]
    assert (await ask(key)).json()["groups"] is None
    answer = await ask(key, group_by="model,team")
    assert (answer.status_code, answer.json()["param"]) == (400, "group_by")


async def test_without_a_key_or_the_scope_nothing_is_told(
    acme: Account, inference_key: str
) -> None:
    assert (await ask(None)).status_code == 401
    assert (await ask(inference_key)).status_code == 403


@pytest.fixture
def inference_key(acme: Account) -> str:
    """May run models, not see usage."""
    return factories.api_key(acme.organization, scopes=[Scope.INFERENCE.value])[1]
