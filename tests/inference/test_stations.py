"""Several models in one worker, within a budget of memory."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis import Redis

from inference.catalog import offers
from inference.jobs import Job
from inference.worker import Host
from tenants.auth import Caller
from tests.inference.parts import add_model, fields, job, submit
from tests.inference.test_worker import until

pytestmark = pytest.mark.django_db(transaction=True)

MIB = 1 << 20


@pytest.fixture
def three(caller: Caller, tmp_path: Path, settings: Any) -> Iterator[Host]:
    """A worker of echo, b and c, a bit less than 2 MiB each, of which it may hold 4 MiB."""
    settings.ENGINE_MEMORY = 4 * MIB
    for name in ("b", "c"):
        add_model(tmp_path, name=name)
    for name in ("echo", "b", "c"):
        (tmp_path / name / "weights").write_bytes(b"x" * (2 * MIB - 4096))
    offers.forget()
    host = Host([offers.published()[name] for name in ("echo", "b", "c")], slots=2)
    host.start()
    yield host
    host.drain(0)


def loaded(host: Host) -> list[str]:
    return [station.offer.name for station in host._stations.loaded()]


def request(caller: Caller, model: str, text: str = "hi") -> Job:
    from billing.models import PriceVersion

    made = job(
        organization=caller.organization,
        schema=caller.schema,
        model=model,
        prompt=(*text.encode(), 256),
        price_version=PriceVersion.objects.get(model=model).pk,
    )
    submit(made)
    return made


def ended(one: Job) -> bool:
    return fields(one.id).get("state") == "done"


def test_what_fits_is_warm_and_the_rest_is_loaded_when_asked_for(
    three: Host, caller: Caller
) -> None:
    assert loaded(three) == ["echo", "b"]
    for name in ("echo", "c"):
        one = request(caller, name)
        three.serve(name)
        until(partial(ended, one))
    assert loaded(three) == ["echo", "c"]


def test_a_model_that_runs_is_not_unloaded(three: Host, caller: Caller) -> None:
    assert three._stations["echo"].take_slot()
    assert three._stations["b"].take_slot()
    waits = request(caller, "c")
    three.serve("c")
    assert loaded(three) == ["echo", "b"]
    assert fields(waits.id)["state"] == "waiting"
    three._stations["b"].free_slot()
    three.serve("c")
    until(lambda: ended(waits))
    assert loaded(three) == ["echo", "c"]


def test_a_closed_station_takes_nothing_and_a_busy_one_does_not_close(three: Host) -> None:
    station = three._stations["echo"]
    assert station.take_slot()
    assert not station.close()
    station.free_slot()
    assert station.close()
    assert not station.take_slot()


def test_a_model_that_cannot_be_loaded_is_ill_alone_and_tried_again(
    three: Host, caller: Caller, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tmp_path / "c" / "manifest.json"
    content = manifest.read_text()
    manifest.unlink()
    waits, fine = request(caller, "c"), request(caller, "echo")
    three.serve("c")
    three.serve("echo")
    until(lambda: ended(fine))
    assert not three._stations.is_well("c")

    def report() -> Any:
        return orjson.loads(redis.get(f"worker:{three.name}") or b"{}")

    until(lambda: report().get("c", {}).get("well") is False)
    assert report()["echo"]["well"]
    manifest.write_text(content)
    three.serve("c")
    assert fields(waits.id)["state"] == "waiting"
    monkeypatch.setattr(three._stations, "_failed", {"c": 0.0})
    three.serve("c")
    until(lambda: ended(waits))
    assert three._stations.is_well("c")


def test_a_model_larger_than_the_budget_unloads_nothing(
    three: Host, caller: Caller, tmp_path: Path
) -> None:
    (tmp_path / "c" / "weights").write_bytes(b"x" * (5 * MIB))
    request(caller, "c")
    three.serve("c")
    assert loaded(three) == ["echo", "b"]
    assert not three._stations.is_well("c")
