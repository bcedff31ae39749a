"""Models that are one organization's alone: who sees them, where they run, what time costs."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from billing import metering
from billing.models import Account, LedgerEntry
from celery_app.worker import served
from inference import occupancy
from inference.catalog import offers
from inference.catalog.models import Model
from inference.tasks import meter_devices
from inference.worker import Host
from kit.money import NANOS
from kit.redis import state
from tenants.models import Organization
from tests import factories
from tests.inference.parts import ECHO, add_model, serving
from tests.inference.test_structured import asked, post
from tests.inference.test_worker import until

pytestmark = pytest.mark.django_db(transaction=True)

HOUR_MS = 3_600_000


@pytest.fixture
def dedicated(account: Account, acme: Organization, tmp_path: Path) -> Model:
    """Acme's alone, at EUR 1.80 an hour, its tokens free."""
    rates = {"device_seconds": 500 * NANOS}
    row = add_model(tmp_path, name="acme-1", rates=rates, dedicated_to=acme)
    offers.forget()
    return row


@pytest.fixture
def holding(dedicated: Model) -> Iterator[Host]:
    """A worker that has it loaded."""
    host = Host([offers.published()["acme-1"]], slots=4)
    host.start()
    yield host
    host.drain(0)


@pytest.fixture
def keys(acme: Organization, globex: Organization) -> list[str]:
    """Acme's, and somebody else's."""
    return [factories.api_key(each)[1] for each in (acme, globex)]


async def test_nobody_else_sees_or_calls_it(keys: list[str], holding: Host, http: Any) -> None:
    mine, others = keys
    names = {}
    for key in (mine, others):
        listed = await http.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
        names[key] = {each["id"] for each in listed.json()["data"]}
    assert names == {mine: {ECHO, "acme-1"}, others: {ECHO}}
    with serving(holding, model="acme-1"):
        answered = await post(mine, {**asked("hello"), "model": "acme-1"})
    refused = await post(others, {**asked("hello"), "model": "acme-1"})
    assert (answered.status_code, refused.status_code) == (200, 404)
    assert refused.json()["error"]["code"] == "model_not_found"


def test_it_runs_only_where_it_is_named(dedicated: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [each.name for each in served()] == [ECHO]
    monkeypatch.setenv("WORKER_MODELS", "acme-1")
    assert [each.name for each in served()] == ["acme-1"]


def test_nothing_of_others_leans_on_it(dedicated: Model, globex: Organization) -> None:
    echo = Model.objects.get(name=ECHO)
    for field in ("fallback", "shadow"):
        leaning = Model.objects.get(name=ECHO)
        setattr(leaning, field, dedicated)
        with pytest.raises(ValidationError, match="serves nobody else"):
            leaning.clean()
    Model.objects.filter(pk=dedicated.pk).update(dedicated_to=None)
    Model.objects.filter(pk=echo.pk).update(fallback=dedicated)
    dedicated.dedicated_to = globex
    with pytest.raises(ValidationError, match="echo falls back on it"):
        dedicated.clean()
    dedicated.backend, dedicated.remote_url = Model.Backend.REMOTE, "https://host/v1"
    with pytest.raises(ValidationError, match="holds no device"):
        dedicated.clean()


def test_a_workers_time_is_booked_by_the_hour_and_once(
    holding: Host, acme: Organization, redis: Redis
) -> None:
    began = time.monotonic()
    until(lambda: any(_seconds(redis, key) >= 1 for key in redis.keys("held:[0-9]*")))
    holding.drain(0)
    keys = redis.keys("held:[0-9]*")
    assert sum(_seconds(redis, key) for key in keys) <= time.monotonic() - began + 1
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
    redis.rename(max(keys, key=lambda key: _seconds(redis, key)), f"held:{_hour(hour)}")
    seconds = occupancy.held(hour)[acme.pk, "acme-1"]
    assert (meter_devices(), meter_devices()) == (1, 0)
    row = LedgerEntry.objects.for_org(acme.pk).get()
    assert (row.kind, row.model, row.units) == ("meter", "acme-1", {"device_seconds": seconds})
    assert row.amount == seconds * 500_000


def test_an_engine_that_is_ill_holds_no_device(
    holding: Host, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    until(lambda: bool(redis.keys("held:last:*")))
    monkeypatch.setattr(holding._stations, "is_well", lambda model: False)
    [last] = redis.keys("held:last:*")
    until(lambda: redis.pttl(last) < 3_000)  # said each second, it never comes to that


def test_what_is_taken_back_is_held_no_more(holding: Host, redis: Redis) -> None:
    until(lambda: bool(redis.keys("held:last:*")))
    Model.objects.filter(name="acme-1").update(published=False)
    offers.forget()
    [last] = redis.keys("held:last:*")
    until(lambda: redis.pttl(last) < 3_000)  # said each second, it never comes to that


@given(st.lists(st.integers(-7_200_000, 3_600_000), max_size=6))
def test_no_hour_of_a_worker_is_longer_than_it_was(gaps: list[int]) -> None:
    """Whatever its last word was when it spoke again: the clock may have been set back."""
    client = state()
    client.delete(*client.keys("held*"), "held:none")
    counted = 0
    for gap in gaps:
        before = _now()
        client.set("held:last:w 1 m", before + gap)
        occupancy.hold("w", [(1, "m")])
        occupancy.hold("w", [(1, "m")])
        counted += max(0, -gap) + _now() - before
    sums = [int(client.hget(key, "w 1 m") or 0) for key in client.keys("held:[0-9]*")]
    assert sum(sums) <= counted
    assert all(0 <= each <= HOUR_MS for each in sums)
    if len(gaps) == 1 and sums:
        assert sum(sums) >= min(-gaps[0], HOUR_MS)


def _seconds(redis: Redis, key: Any) -> float:
    return sum(map(int, redis.hvals(key))) / 1000


def test_the_portal_shows_it_to_its_own(
    dedicated: Model, acme: Organization, alice: Any, bob: Any
) -> None:
    hour = datetime.now(UTC) - timedelta(seconds=1)
    metering.book_devices({(acme.pk, "acme-1"): 3_661}, hour=hour, now=hour)
    for person, slug, shown in ((alice, "acme", True), (bob, "globex", False)):
        client = Client()
        client.force_login(person)
        page = client.get(f"/o/{slug}/").content.decode()
        assert ("acme-1" in page and "1:01:01" in page and "Dedicated models" in page) == shown


def _hour(at: datetime) -> int:
    return int(at.timestamp()) // 3600


def _now() -> int:
    seconds, micros = state().time()
    return seconds * 1000 + micros // 1000
