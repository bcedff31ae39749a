"""The catalog of models, as operators keep it."""

from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from billing.models import PriceVersion
from inference.catalog import offers
from inference.catalog.models import Model
from tests.admin.conftest import NOW

LIST = "/admin/catalog/model/"


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
    }
    assert operator.post(f"{LIST}{model.pk}/change/", form).status_code == 302
    model.refresh_from_db()
    assert (model.name, model.title, model.context) == ("small", "Smaller", 2048)
    assert operator.post(f"{LIST}{model.pk}/delete/", {"post": "yes"}).status_code == 403
