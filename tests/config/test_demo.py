"""What `make run` finds in a fresh installation."""

from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from redis import Redis

from billing.offers import PlanTerms
from config.demo import seed
from inference.catalog.models import Model
from tests.inference.clients import ENCODER


@pytest.mark.django_db(transaction=True)
def test_a_fresh_installation_has_models_plans_and_a_key_and_stays_as_it_is(
    redis: Redis, tmp_path: Path, settings: Any
) -> None:
    settings.MODELS_DIR, settings.DEFAULT_MODEL = tmp_path / "models", "echo"
    call_command("prepare_model", "echo")
    call_command("prepare_model", "--embedding")
    first = seed(tmp_path / "demo.json")
    assert first.api_key.startswith("aip_")
    assert {*Model.objects.values_list("name", flat=True)} == {"echo", ENCODER}
    assert PlanTerms.objects.count() == 4
    assert seed(tmp_path / "demo.json") == first
    assert PlanTerms.objects.count() == 4
