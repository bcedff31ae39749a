"""One base and what wears adapters on it: models of their own to callers, one engine inside."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from billing.models import PriceVersion
from inference.catalog import offers
from inference.catalog.models import Model
from inference.worker import Host
from tenants.models import Organization
from tests import factories
from tests.engine import conftest
from tests.engine.test_adapters import write_adapter
from tests.inference.parts import NOW, RATES, serving
from tests.inference.test_api import post

pytest.importorskip("torch")
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(240)]

tiny = conftest.tiny


@pytest.fixture
def family(echo: Any, tmp_path: Path, tiny: Path) -> Iterator[Host]:
    """The tiny model as `base`, `law` and `sql` that wear adapters, and `odd`, whose is missing."""
    shutil.copytree(tiny / "torch-none", tmp_path / "base")
    for number, name in enumerate(("base", "law", "sql", "odd")):
        PriceVersion.objects.create(
            model=name, currency="EUR", rates=RATES, effective_from=NOW.replace(month=1)
        )
        adapter = "" if name == "base" else f"adapters/{name}"
        if name in {"law", "sql"}:
            write_adapter(tmp_path / adapter, seed=number, rank=4, size=0.4)
        Model.objects.create(
            name=name,
            title=name,
            backend="torch",
            folder="base",
            adapter=adapter,
            version="1",
            context=256,
            default_temperature=0,
            published=True,
        )
    offers.forget()
    host = Host([offers.published()[name] for name in ("base", "law", "sql", "odd")], slots=2)
    host.start()
    yield host
    host.drain(0)


@pytest.fixture
def key(account: Any, acme: Organization) -> str:
    """Acme's program's key."""
    return factories.api_key(acme)[1]


async def test_models_of_one_base_run_in_one_engine_and_answer_each_its_own(
    family: Host, key: str
) -> None:
    said = {}
    assert len(family._stations.loaded()) == 1
    for name in ("base", "law", "sql"):
        body = {"prompt": "hello there", "model": name, "max_tokens": 8}
        with serving(family, model=name):
            found = (await post("/api/v1/infer", body, key)).json()
        assert found["model"] == name
        said[found["text"]] = name
    assert len(said) == 3
    assert family._stations.is_well("base")
    assert not family._stations.is_well("odd"), "an adapter that is missing is missing alone"


def test_whoever_frees_a_slot_takes_the_next_model_in_turn(family: Host) -> None:
    station = family._stations["law"]
    firsts = [station.turns("law")[0] for _ in range(6)]
    assert sorted(firsts[:3]) == ["base", "law", "sql"]
    assert firsts[:3] == firsts[3:]
