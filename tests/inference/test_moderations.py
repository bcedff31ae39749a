"""/v1/moderations: OpenAI's form, what it finds, and what it costs."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.types import ModerationCreateResponse

from billing.models import LedgerEntry
from inference.catalog.offers import Offer
from inference.worker import Host
from tenants.models import Organization
from tests import factories
from tests.inference.clients import ENCODER
from tests.inference.parts import in_schema, serving
from tests.inference.shapes import exactly
from tests.inference.test_api import post

pytestmark = pytest.mark.django_db(transaction=True)

PATH = "/v1/moderations"


@pytest.fixture
def key(account: Any, acme: Organization) -> str:
    """Acme's program's key."""
    return factories.api_key(acme)[1]


async def test_texts_that_nothing_was_tuned_on_are_judged_as_the_documentation_says(
    key: str, encoding: Host, acme: Organization
) -> None:
    rows = tomllib.loads((Path(__file__).parent / "moderated.toml").read_text())["texts"]
    with serving(encoding, model=ENCODER):
        answer = await post(PATH, {"input": [text for text, _ in rows]}, key)
    judged = exactly(ModerationCreateResponse, answer.json()).results
    found = [each["categories"] for each in answer.json()["results"]]
    right = sum(found[n][category] for n, (_, category) in enumerate(rows) if category)
    alarms = sum(judged[n].flagged for n, (_, category) in enumerate(rows) if not category)
    assert (right, alarms, len(rows)) == (12, 0, 36)
    for each, categories in zip(judged, found, strict=True):
        assert each.flagged == any(categories.values())
    [row] = await in_schema("public", lambda: [*LedgerEntry.objects.for_org(acme)])
    assert {*row.units} == {"embedding_tokens"}
    assert row.amount > 0


async def test_one_bad_sentence_in_a_long_text_is_found_and_its_categorys_whole_with_it(
    openai: AsyncOpenAI, encoding: Host
) -> None:
    plain = "The weather was fine and we walked along the river for an hour. " * 40
    bad: Any = [{"type": "text", "text": f"{plain} I will kill you. {plain}"}]
    with serving(encoding, model=ENCODER):
        [clean] = (await openai.moderations.create(input=plain)).results
        [found] = (
            await openai.moderations.create(
                model="omni-moderation-latest",
                input=bad,
            )
        ).results
    assert not clean.flagged
    assert found.categories.harassment_threatening
    assert found.categories.harassment
    assert found.category_scores.violence > 0.9


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"input": []}, 400, "input"),
        ({"input": ["a", " "]}, 400, "input.1"),
        ({"input": [{"type": "image_url", "image_url": {"url": "x"}}]}, 400, "input"),
        ({"input": "a", "model": "gpt-9"}, 404, "model"),
    ],
)
async def test_what_cannot_be_judged_is_refused_by_name(
    body: Any, status: int, param: str, key: str, encoder: Offer
) -> None:
    answer = await post(PATH, body, key)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"].partition(".0.")[0]) == (status, param)
