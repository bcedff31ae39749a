"""Sums of the history: each request counted once, whoever counts; and what is told of them."""

import random
from bisect import bisect
from datetime import UTC, datetime, timedelta
from itertools import product
from math import ceil
from threading import Thread
from typing import Any
from uuid import UUID

import pytest
from django.db import DataError, connection
from django_tenants.utils import schema_context

from analytics.rollups import counting
from analytics.rollups.durations import BOUNDS, FIRST_MS, STEPS, percentile
from analytics.rollups.models import Rollup
from analytics.tasks import count_requests
from inference import history
from inference.models import RequestDue
from kit.ids import first_id
from tenants.models import Organization
from tests import factories
from tests.analytics.test_requests import START, row
from tests.inference.clients import http as http

pytestmark = [pytest.mark.usefixtures("redis"), pytest.mark.django_db(transaction=True)]


@pytest.fixture
def key(acme: Organization) -> str:
    return factories.api_key(acme)[1]


@pytest.fixture
def rows(acme: Organization, globex: Organization) -> list[history.Row]:
    """A request every seven hours, of two models and two projects; one of globex's."""
    made = []
    for n in range(12):
        at = START + timedelta(hours=7 * n)
        made.append(
            row(
                n,
                id=UUID(int=first_id(at).int + n),
                model="big" if n % 3 == 0 else "echo",
                project="site" if n % 2 else "",
                state="failed" if n == 4 else "cancelled" if n == 5 else "finished",
                created_at=at,
                started_at=at,
                first_token_at=None if n == 4 else at + timedelta(milliseconds=40),
                finished_at=at + timedelta(milliseconds=100 * (n + 1)),
            )
        )
    history.write([(acme.schema_name, each) for each in made])
    history.write([(globex.schema_name, row(5))])
    return made


async def ask(http: Any, bearer: str, **query: str) -> Any:
    headers = {"Authorization": f"Bearer {bearer}"}
    return await http.get("/api/v1/analytics", params=query, headers=headers)


ALL = {"since": "2026-11-24T00:00:00Z", "until": "2026-11-29T00:00:00Z"}


@pytest.fixture
def counted(rows: list[history.Row]) -> list[history.Row]:
    assert count_requests() == 13
    assert count_requests() == 0
    return rows


async def test_totals_are_the_historys(http: Any, key: str, counted: list[history.Row]) -> None:
    said = (await ask(http, key, **ALL)).json()
    totals = said["totals"]
    assert (said["span"], said["groups"][0]["of"]) == ("day", {})
    assert (totals["requests"], totals["failed"], totals["cancelled"]) == (12, 1, 1)
    assert totals["prompt_tokens"] == sum(each.prompt_tokens for each in counted)
    assert totals["amount_nanos"] == sum(each.amount for each in counted)
    assert totals["first_token_ms"]["p50"] == pytest.approx(40, rel=0.15)
    assert totals["latency_ms"]["p99"] == pytest.approx(1200, rel=0.15)
    assert totals["error_rate"] == pytest.approx(1 / 12, abs=1e-6)


@pytest.mark.parametrize(
    ("query", "span", "groups"),
    [
        ({"group_by": "model"}, "day", [({"model": "big"}, 4), ({"model": "echo"}, 8)]),
        (
            {"group_by": "project", "model": "big"},
            "day",
            [({"project": ""}, 2), ({"project": "site"}, 2)],
        ),
        (
            {"group_by": "day"},
            "day",
            [
                ({"day": f"2026-11-{day}"}, count)
                for day, count in ((24, 2), (25, 4), (26, 3), (27, 3))
            ],
        ),
        (
            {
                "group_by": "hour,key",
                "since": "2026-11-24T11:30:00Z",
                "until": "2026-11-24T20:00:00Z",
            },
            "hour",
            [({"hour": f"2026-11-24T{hour}:00Z", "key": "key000000000"}, 1) for hour in (12, 19)],
        ),
        ({"project": "none"}, "day", []),
    ],
    ids=str,
)
async def test_groups_are_as_asked_for(
    query: dict[str, str], span: str, groups: Any, http: Any, key: str, counted: list[history.Row]
) -> None:
    said = (await ask(http, key, **{**ALL, **query})).json()
    assert said["span"] == span
    assert [(each["of"], each["requests"]) for each in said["groups"]] == groups
    assert said["totals"]["requests"] == sum(count for _, count in groups)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"group_by": "team"}, "group_by"),
        ({"group_by": "day,day"}, "group_by"),
        ({"since": "2026-11-29T00:00:00Z", "until": "2026-11-24T00:00:00Z"}, "until"),
        ({"since": "2020-01-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"}, "since"),
        (
            {"since": "2026-11-01T00:00:00Z", "until": "2026-11-24T00:00:00Z", "group_by": "hour"},
            "since",
        ),
        ({"until": "0001-01-01T00:00:00Z"}, "until"),
        ({"to": "now"}, "to"),
    ],
    ids=str,
)
async def test_what_does_not_fit_is_refused_by_name(
    query: dict[str, str], param: str, http: Any, key: str
) -> None:
    answer = await ask(http, key, **query)
    assert (answer.status_code, answer.json()["param"]) == (400, param), answer.text


async def test_without_a_time_the_last_seven_days_are_told(http: Any, key: str) -> None:
    said = (await ask(http, key)).json()
    since, until = (datetime.fromisoformat(said[name]) for name in ("since", "until"))
    assert until - since == timedelta(days=7)
    assert since.hour == 0
    assert until > datetime.now(UTC)
    assert (said["groups"], said["totals"]["latency_ms"]["p50"]) == ([], None)


def test_however_many_count_at_once_each_request_counts_once(
    acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "AT_ONCE", 7)
    rows = [row(n) for n in range(200)]
    history.write([(acme.schema_name, each) for each in rows])

    def count() -> None:
        try:
            counting.count(acme.schema_name)
        finally:
            connection.close()

    threads = [Thread(target=count) for _ in range(4)]
    for each in threads:
        each.start()
    history.write([(acme.schema_name, each) for each in rows])
    for each in threads:
        each.join(60)
    counting.count(acme.schema_name)
    with schema_context(acme.schema_name):
        assert RequestDue.objects.count() == 0
        for span, per in product(Rollup.Span.values, Rollup.Per.values):
            found = Rollup.objects.filter(span=span, per=per)
            assert sum(each.requests for each in found) == 200
            assert sum(sum(each.latency) for each in found) == 200
            assert sum(each.amount for each in found) == sum(each.amount for each in rows)


def test_who_dies_while_counting_has_counted_nothing(
    acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.write([(acme.schema_name, row(1))])

    whole = counting._statement(acme.schema_name)
    dying = whole.replace("SELECT count(*) FROM due", "SELECT 1 / (count(*) - 1) FROM due")
    monkeypatch.setattr(counting, "_statement", lambda _: dying)
    with pytest.raises(DataError, match="division by zero"):
        counting.count(acme.schema_name)
    monkeypatch.undo()
    assert counting.count(acme.schema_name) == 1
    with schema_context(acme.schema_name):
        assert [each.requests for each in Rollup.objects.all()] == [1] * 8


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99])
def test_a_percentile_is_within_15_percent_of_the_true_value(share: float) -> None:
    chance = random.Random(1)  # noqa: S311
    for count in (1, 2, 10, 5_000):
        times = sorted(chance.lognormvariate(6, 1.5) for _ in range(count))
        counts = [0] * STEPS
        for each in times:
            counts[bisect(BOUNDS, each)] += 1
        true = times[ceil(share * count) - 1]
        if FIRST_MS < true < BOUNDS[-1]:
            assert percentile(counts, share) == pytest.approx(true, rel=0.15)
    assert percentile([0] * STEPS, share) is None
