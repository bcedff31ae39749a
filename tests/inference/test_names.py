"""What models are called, and who may use them: aliases, weights, plans; and the command."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from inference.catalog import offers
from inference.catalog.models import Alias, AliasTarget, Model
from inference.worker import Host
from tenants.models import AuditEntry, ModelLimit, Organization, Plan
from tests import factories
from tests.inference.parts import ECHO, add_model, in_schema, serving
from tests.inference.test_api import post
from tests.inference.test_reading import ask

pytestmark = pytest.mark.django_db(transaction=True)

PROMPT = {"prompt": "hello", "max_tokens": 2}


@pytest.fixture
def key(account: Any, acme: Organization) -> str:
    return factories.api_key(acme)[1]


@pytest.fixture
def second(host: Host, tmp_path: Path) -> Model:
    """Another echo model, which no worker has."""
    return add_model(tmp_path, name="echo-2")


def stand(alias: str, **weights: int) -> None:
    call_command(
        "models",
        "alias",
        alias,
        *(f"{name.replace('_', '-')}={weight}" for name, weight in weights.items()),
        stdout=StringIO(),
    )
    offers.forget()


async def test_an_alias_is_answered_by_its_model_and_both_are_named(key: str, host: Host) -> None:
    await in_schema("public", lambda: stand("latest", echo=1))
    with serving(host):
        answer = await post("/api/v1/infer", {**PROMPT, "model": "latest"}, key)
    assert answer.status_code == 200, answer.content
    assert (answer.json()["model"], answer["X-Model-Alias"]) == (ECHO, "latest")
    assert "X-Model-Fallback" not in answer
    listed = (await ask("GET", "/v1/models", key)).json()["data"]
    assert [each["id"] for each in listed] == [ECHO, "latest"]
    assert (await ask("GET", "/v1/models/latest", key)).json()["id"] == "latest"
    info = (await ask("GET", "/api/v1/model/info?model=latest", key)).json()
    assert (info["name"], info["aliases"]) == (ECHO, ["latest"])
    assert info["price"] == {
        "currency": "EUR",
        "per_million": {"input_tokens": "1.000000000", "output_tokens": "2.000000000"},
    }


async def test_limits_hold_of_the_name_that_requests_say(
    key: str, host: Host, acme: Organization
) -> None:
    def limited() -> None:
        stand("latest", echo=1)
        ModelLimit.objects.create(organization=acme, model="latest", requests_per_minute=1)

    await in_schema("public", limited)
    with serving(host):
        said = [
            await post("/api/v1/infer", {**PROMPT, "model": model}, key)
            for model in ("latest", "latest", ECHO)
        ]
    assert [each.status_code for each in said] == [200, 429, 200]
    assert "your organization on latest" in said[1].json()["detail"]


async def test_requests_are_drawn_by_weight(key: str, second: Model, caller: Any) -> None:
    await in_schema("public", lambda: stand("rolling", echo=3, echo_2=1))
    drawn = [(await offers.offer("rolling", caller=caller)).name for _ in range(400)]
    assert 240 < drawn.count(ECHO) < 360
    await in_schema("public", lambda: stand("rolling", echo=0, echo_2=1))
    assert {(await offers.offer("rolling", caller=caller)).name for _ in range(20)} == {"echo-2"}


async def test_an_alias_falls_back_as_its_model_does(key: str, host: Host, second: Model) -> None:
    def chain() -> None:
        Model.objects.filter(name="echo-2").update(fallback=Model.objects.get(name=ECHO))
        stand("rolling", echo_2=1)

    await in_schema("public", chain)
    with serving(host):
        answer = await post("/api/v1/infer", {**PROMPT, "model": "rolling"}, key)
    assert answer.json()["model"] == ECHO
    assert (answer["X-Model-Alias"], answer["X-Model-Fallback"]) == ("rolling", "echo-2")


async def test_a_key_that_may_use_an_alias_may_use_what_it_stands_for_by_it_alone(
    host: Host, account: Any, acme: Organization
) -> None:
    def made() -> str:
        stand("latest", echo=1)
        return factories.api_key(acme, models=["latest"])[1]

    key = await in_schema("public", made)
    with serving(host):
        assert (await post("/api/v1/infer", {**PROMPT, "model": "latest"}, key)).status_code == 200
        refused = await post("/api/v1/infer", {**PROMPT, "model": ECHO}, key)
    assert (refused.status_code, refused.json()["code"]) == (404, "model_not_found")
    listed = (await ask("GET", "/v1/models", key)).json()["data"]
    assert [each["id"] for each in listed] == ["latest"]


async def test_a_plans_model_is_there_for_its_organizations_alone(
    key: str, host: Host, acme: Organization
) -> None:
    def reserve() -> Plan:
        plan = Plan.objects.create(name="Team")
        Model.objects.get(name=ECHO).plans.add(plan)
        offers.forget()
        return plan

    def join(plan: Plan) -> None:
        acme.plan = plan
        acme.save()

    plan = await in_schema("public", reserve)
    refused = await post("/api/v1/infer", PROMPT, key)
    assert (refused.status_code, refused.json()["code"]) == (404, "model_not_found")
    assert (await ask("GET", "/api/v1/models", key)).json()["models"] == []
    await in_schema("public", lambda: join(plan))
    with serving(host):
        # Within a second, as test_auth holds.
        while (await post("/api/v1/infer", PROMPT, key)).status_code != 200:
            pass


def command(*words: str) -> str:
    out = StringIO()
    call_command("models", *words, stdout=out)
    return out.getvalue()


def test_a_model_is_added_priced_published_and_retired(
    redis: Any, db: None, tmp_path: Path, settings: Any
) -> None:
    settings.MODELS_DIR = tmp_path
    with pytest.raises(CommandError, match="holds no prepared model"):
        command("add", "small", "--folder", "echo")
    command("prepare", "echo")
    command("add", "small", "--folder", "echo", "--title", "Small")
    row = Model.objects.get()
    assert (row.backend, row.published, row.title) == ("echo", False, "Small")
    with pytest.raises(CommandError, match="no price"):
        command("publish", "small")
    with pytest.raises(CommandError, match="teapots"):
        command("price", "small", "EUR", "teapots=1")
    with pytest.raises(CommandError, match="ISO 4217"):
        command("price", "small", "XYZ", "input_tokens=0.05")
    command("price", "small", "EUR", "input_tokens=0.05", "output_tokens=0.20")
    command("publish", "small")
    assert "small" in offers.published()
    command("alias", "latest", "small")
    for words, why in (
        (("alias", "latest", "none"), "no model 'none'"),
        (("alias", "small", "small"), "is a model's name"),
        (("alias", "latest", "small=many"), "whole number"),
        (("alias", "Latest!", "small"), "Lower case"),
        (("retire", "small"), "stands for small alone"),
        (("add", "small", "--folder", "echo"), "already exists"),
        (("add", "other", "--folder", "echo", "--plan", "None"), "no plan"),
        (("publish", "none"), "no model 'none'"),
    ):
        with pytest.raises(CommandError, match=why):
            command(*words)
    assert AliasTarget.objects.get().model == row
    listed = command("list")
    assert "small" in listed
    assert "latest (1)" in listed
    command("alias", "latest")
    assert not Alias.objects.exists()
    command("retire", "small")
    assert "small" not in offers.published()
    rows = AuditEntry.objects.across_organizations().order_by("sequence")
    assert [*rows.values_list("action", flat=True)] == [
        "model.added",
        "price.added",
        "model.published",
        "alias.changed",
        "alias.changed",
        "model.retired",
    ]
