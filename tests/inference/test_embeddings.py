"""Embeddings by OpenAI's client, through limits, credit, worker, history and ledger."""

from collections.abc import Mapping
from typing import Any, cast

import httpx2 as httpx
import numpy as np
import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError
from openai.types import CreateEmbeddingResponse

from billing.models import Account, LedgerEntry
from inference import stream
from inference.models import Request
from inference.worker import Host
from kit.redis import state
from tenants.models import Organization
from tests import factories
from tests.inference.clients import ENCODER
from tests.inference.parts import ECHO, in_schema, serving

pytestmark = pytest.mark.django_db(transaction=True)

CAT, KITTEN, BILL = "a cat", "a kitten", "the invoice is due"


@pytest.fixture
def key(account: Account, acme: Organization) -> str:
    """Acme's program's key."""
    return factories.api_key(acme)[1]


def said(key: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_texts_are_embedded_in_openais_schema(openai: AsyncOpenAI, encoding: Host) -> None:
    with serving(encoding, model=ENCODER):
        raw = await openai.embeddings.with_raw_response.create(
            model=ENCODER, input=[CAT, KITTEN, BILL], encoding_format="float"
        )
    body = raw.http_response.json()
    found = CreateEmbeddingResponse.model_validate(body, strict=True)
    assert found.model_dump() == body
    cat, kitten, bill = (np.array(each.embedding) for each in found.data)
    assert cat.shape == (384,)
    assert abs(np.linalg.norm(cat) - 1) < 1e-5
    assert cat @ kitten > 0.6 > 0.3 > cat @ bill
    assert found.usage.prompt_tokens == found.usage.total_tokens == 4 + 4 + 8


async def test_base64_floats_tokens_and_single_texts_say_the_same(
    openai: AsyncOpenAI, encoding: Host
) -> None:
    with serving(encoding, model=ENCODER):
        packed = await openai.embeddings.create(model=ENCODER, input=CAT)
        plain = await openai.embeddings.create(model=ENCODER, input=CAT, encoding_format="float")
        tokens = await openai.embeddings.create(model=ENCODER, input=[1037, 4937])
        many = await openai.embeddings.create(model=ENCODER, input=[[1037, 4937]])
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-9)
    assert packed.data[0].embedding == tokens.data[0].embedding == many.data[0].embedding


async def test_fewer_dimensions_are_the_first_ones_at_length_one(
    openai: AsyncOpenAI, encoding: Host
) -> None:
    with serving(encoding, model=ENCODER):
        whole = await openai.embeddings.create(model=ENCODER, input=CAT)
        short = await openai.embeddings.create(model=ENCODER, input=CAT, dimensions=8)
    first = np.array(whole.data[0].embedding[:8])
    assert short.data[0].embedding == pytest.approx(first / np.linalg.norm(first), abs=1e-6)


async def test_history_and_ledger_have_the_tokens_under_their_own_meter(
    openai: AsyncOpenAI, encoding: Host, acme: Organization
) -> None:
    with serving(encoding, model=ENCODER):
        await openai.embeddings.create(model=ENCODER, input=[CAT, BILL])
    history = await in_schema(acme.schema_name, Request.objects.get)
    assert (history.endpoint, history.state) == ("embeddings", "finished")
    assert (history.prompt_tokens, history.completion_tokens, history.amount) == (12, 0, 36_000)
    entry = await in_schema("public", LedgerEntry.objects.for_org(acme.pk).get)
    assert (entry.units, entry.amounts) == ({"embedding_tokens": 12}, {"embedding_tokens": 36_000})


async def test_the_platforms_own_embeddings_and_similarity(
    http: httpx.AsyncClient, key: str, encoding: Host
) -> None:
    with serving(encoding, model=ENCODER):
        one = await http.post("/api/v1/embeddings", json={"text": CAT}, headers=said(key))
        some = await http.post("/api/v1/embeddings", json={"texts": [CAT]}, headers=said(key))
        near = await http.post(
            "/api/v1/similarity", json={"text": CAT, "texts": [KITTEN, BILL]}, headers=said(key)
        )
    assert one.json()["embedding"] == some.json()["embeddings"][0]
    assert one.json()["cost"]["amount_nanos"] == 4 * 3_000
    assert one.json()["request_id"] == one.headers["X-Request-ID"]
    kitten, bill = near.json()["scores"]
    assert 1 >= kitten > 0.6 > 0.3 > bill
    assert near.json()["usage"]["prompt_tokens"] == 16


async def test_what_is_sent_again_under_its_key_is_billed_once(
    openai: AsyncOpenAI, encoding: Host, acme: Organization
) -> None:
    repeat = {"Idempotency-Key": "one"}
    with serving(encoding, model=ENCODER):
        first = await openai.embeddings.create(model=ENCODER, input=CAT, extra_headers=repeat)
        again = await openai.embeddings.create(model=ENCODER, input=CAT, extra_headers=repeat)
    assert first == again
    count = await in_schema("public", LedgerEntry.objects.for_org(acme.pk).count)
    assert count == 1


BAD: Mapping[str, tuple[Mapping[str, Any], str, str]] = {
    "nothing": ({"input": []}, "invalid_value", "input"),
    "an empty text": ({"input": [CAT, "  "]}, "invalid_value", "input.1"),
    "too many texts": ({"input": ["x"] * 2049}, "invalid_value", "input"),
    "a long text": ({"input": [CAT, "cat " * 600]}, "context_length_exceeded", "input.1"),
    "too many tokens": ({"input": ["cat " * 400] * 1000}, "invalid_value", "input.746"),
    "an unknown token": ({"input": [99999]}, "invalid_value", "input"),
    "a negative token": ({"input": [-1]}, "invalid_value", "input.0"),
    "many dimensions": ({"input": CAT, "dimensions": 385}, "invalid_value", "dimensions"),
    "no dimensions": ({"input": CAT, "dimensions": 0}, "invalid_value", "dimensions"),
    "an unknown field": ({"input": CAT, "truncate": True}, "invalid_value", "truncate"),
    "a model of language": ({"model": ECHO, "input": CAT}, "invalid_value", "model"),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_input_is_refused_by_name(case: str, openai: AsyncOpenAI, encoder: Any) -> None:
    body, code, param = BAD[case]
    with pytest.raises(BadRequestError) as refused:
        await openai.post("/embeddings", cast_to=object, body={"model": ENCODER, **body})
    assert (refused.value.code, (refused.value.param or "").split(".list")[0]) == (code, param)


async def test_a_sentence_encoder_does_not_chat(openai: AsyncOpenAI, encoder: Any) -> None:
    with pytest.raises(BadRequestError, match="/v1/embeddings"):
        await openai.chat.completions.create(
            model=ENCODER, messages=[{"role": "user", "content": "hello"}]
        )
    with pytest.raises(NotFoundError):
        await openai.embeddings.create(model="none", input=CAT)


async def test_what_was_embedded_is_in_redis_under_the_organizations_key_alone(
    openai: AsyncOpenAI, encoding: Host
) -> None:
    with serving(encoding, model=ENCODER):
        found = await openai.embeddings.create(model=ENCODER, input=CAT)
    assert found.data
    [name] = cast("list[bytes]", state().keys("stream:*"))
    [(_, fields), _] = stream.entries(state().xrange(name))
    assert not stream._is_clear(fields[b"d"])
    assert b'"x"' not in fields[b"d"]
