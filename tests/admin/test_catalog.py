"""The catalog of models, as operators keep it."""

from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from billing.models import PriceVersion
from inference.catalog import offers
from inference.catalog.models import Alias, Model, ShadowRun
from inference.catalog.shadows import Made, Pair, record
from tenants.models import AuditEntry
from tests.admin.conftest import NOW

LIST = "/admin/catalog/model/"
FIELDS = (
    "title", "owner", "backend", "folder", "version", "device", "context",
    "default_max_tokens", "default_temperature", "default_top_p",
)  # fmt: skip


@pytest.fixture
def model(db: None, settings: Any, tmp_path: Path) -> Model:
    settings.MODELS_DIR = tmp_path
    offers.forget()
    return Model.objects.create(
        name="small", title="Small", backend="echo", folder="small", version="v1", context=4096
    )


def publish(operator: Client, model: Model, action: str = "publish") -> str:
    chosen = {"action": action, "_selected_action": [model.pk]}
    return operator.post(LIST, chosen, follow=True).content.decode()


@pytest.mark.parametrize("path", ["", "?q=sma", "?q=none", "?published__exact=1", "add/"])
def test_every_page_opens(operator: Client, model: Model, path: str) -> None:
    assert operator.get(LIST + path).status_code == 200


def test_the_list_shows_what_is_on_offer(operator: Client, model: Model) -> None:
    page = operator.get(LIST).content.decode()
    for part in ("small", "draft", "4,096 tokens"):
        assert part in page


def test_a_model_is_published_and_taken_back(
    operator: Client, model: Model, django_capture_on_commit_callbacks: Any
) -> None:
    assert "small" not in offers.published()
    with django_capture_on_commit_callbacks(execute=True):
        publish(operator, model)
    assert "small" in offers.published()
    with django_capture_on_commit_callbacks(execute=True):
        publish(operator, model, "take_back")
    assert "small" not in offers.published()


def test_a_published_model_says_what_it_lacks(
    operator: Client, model: Model, tmp_path: Path
) -> None:
    said = publish(operator, model)
    assert "small has no price" in said
    assert "small is not prepared" in said
    rates = {"input_tokens": 1}
    PriceVersion.objects.create(model="small", currency="EUR", rates=rates, effective_from=NOW)
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "manifest.json").touch()
    said = publish(operator, model)
    assert "has no price" not in said
    assert "is not prepared" not in said
    assert "within 5 seconds" in said


def test_its_name_stays_and_it_is_not_deleted(operator: Client, model: Model) -> None:
    form = {
        "name": "other",
        "title": "Smaller",
        "owner": "me",
        "backend": "echo",
        "folder": "small",
        "version": "v2",
        "device": "cpu",
        "context": "2048",
        "default_max_tokens": "16",
        "default_temperature": "1",
        "default_top_p": "1",
        "shadow_percent": "0",
    }
    assert operator.post(f"{LIST}{model.pk}/change/", form).status_code == 302
    model.refresh_from_db()
    assert (model.name, model.title, model.context) == ("small", "Smaller", 2048)
    assert operator.post(f"{LIST}{model.pk}/delete/", {"post": "yes"}).status_code == 403


def alias_form(name: str, *targets: tuple[Model, int], kept: int = 0) -> dict[str, str]:
    """What the form of an alias sends; `kept` of its targets stand in it already."""
    rows = {
        f"targets-{at}-{field}": str(value)
        for at, (model, weight) in enumerate(targets)
        for field, value in (("model", model.pk), ("weight", weight))
    }
    count = {"targets-TOTAL_FORMS": str(len(targets)), "targets-INITIAL_FORMS": str(kept)}
    return {"name": name, **count, **rows}


def test_a_rollout_is_a_change_of_weights_on_the_record(
    operator: Client, model: Model, django_capture_on_commit_callbacks: Any
) -> None:
    other = Model.objects.create(
        name="newer", title="N", backend="echo", folder="n", version="2", context=64, published=True
    )
    Model.objects.update(published=True)
    add = "/admin/catalog/alias/add/"
    with django_capture_on_commit_callbacks(execute=True):
        answer = operator.post(add, alias_form("best", (model, 90), (other, 10)), follow=True)
    page = answer.content.decode()
    assert "newer 10%" in page
    assert "small 90%" in page
    assert "within 5 seconds" in page
    assert ("best", 10) in offers.published()["newer"].aliases
    alias = Alias.objects.get()
    form = alias_form("best", (other, 10), (model, 30), kept=2)
    for at, target in enumerate(alias.targets.order_by("model__name")):
        form |= {f"targets-{at}-id": str(target.pk), f"targets-{at}-alias": str(alias.pk)}
    with django_capture_on_commit_callbacks(execute=True):
        operator.post(f"/admin/catalog/alias/{alias.pk}/change/", form)
    assert ("best", 30) in offers.published()["small"].aliases
    changed = AuditEntry.objects.across_organizations().get(action="aliastarget.changed")
    assert (changed.before, changed.after) == ({"weight": 90}, {"weight": 30})
    with django_capture_on_commit_callbacks(execute=True):
        operator.post(f"/admin/catalog/alias/{alias.pk}/delete/", {"post": "yes"})
    assert offers.published()["small"].aliases == ()


def test_an_alias_is_no_models_name_and_says_when_it_stands_for_nothing(
    operator: Client, model: Model
) -> None:
    add = "/admin/catalog/alias/add/"
    assert "an alias needs its own" in operator.post(add, alias_form("small")).content.decode()
    said = operator.post(add, alias_form("best", (model, 1)), follow=True).content.decode()
    assert "requests by this name are refused" in said
    assert "small (not published)" in said


def test_what_shadows_answered_is_compared_above_the_runs(operator: Client, model: Model) -> None:
    assert (
        "Nothing was answered again" in operator.get("/admin/catalog/shadowrun/").content.decode()
    )
    record(
        Pair("small", "v1", "newer", "v2"),
        state=ShadowRun.State.ANSWERED,
        prompt_tokens=5,
        original=Made((1, 2, 3, 4), 10, 20),
        again=Made((1, 2, 3, 5), 30, 41),
        now=timezone.now(),
    )
    page = operator.get("/admin/catalog/shadowrun/").content.decode()
    for part in ("small v1", "newer v2", "75.0%", "10 → 30", "20 → 41"):
        assert part in page


def test_a_shadow_that_reads_other_tokens_is_refused_by_its_field(
    operator: Client, model: Model
) -> None:
    other = Model.objects.create(
        name="other", title="O", backend="onnx", folder="other", version="1", context=64
    )
    form = {field: str(getattr(model, field)) for field in FIELDS}
    form |= {"shadow": str(other.pk), "shadow_percent": "5", "caching": "on"}
    page = operator.post(f"{LIST}{model.pk}/change/", form).content.decode()
    assert "It reads other tokens" in page
