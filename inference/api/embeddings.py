"""Texts to vectors: /v1/embeddings in OpenAI's schema, /api/v1/embeddings and similarity."""

import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from django.http import HttpRequest, HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from pydantic import Field, model_validator

from inference.api.access import InferenceEndpoint, cost, headers
from inference.api.chat_forms import User
from inference.api.forms import Form, Token
from inference.api.infer import bill
from inference.catalog.offers import Offer, encoder
from inference.embedding import (
    MOST_TEXTS,
    Named,
    embedding_wish,
    known_dimensions,
    packed,
    shortened,
)
from inference.engine import Vectors, vectors_of
from inference.generation import Generation
from kit.edge import Json, body

Texts = Annotated[list[str], Field(min_length=1, max_length=MOST_TEXTS)]
Tokens = Annotated[list[Token], Field(min_length=1)]
ManyTokens = Annotated[list[Tokens], Field(min_length=1, max_length=MOST_TEXTS)]


class EmbeddingsForm(Form):
    """POST /v1/embeddings."""

    model: str
    input: str | Texts | Tokens | ManyTokens
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(
        None, ge=1, description="The first so many, brought to length 1 again."
    )
    user: User = None

    @property
    def texts(self) -> list[Named]:
        """What is to be embedded."""
        given: Any = self.input
        if isinstance(given, str) or isinstance(given[0], int):
            return [Named(given, "input")]
        return [Named(each, f"input.{number}") for number, each in enumerate(given)]


class PlainEmbeddingsForm(Form):
    """POST /api/v1/embeddings: one text, or several."""

    text: str | None = None
    texts: Texts | None = None
    model: str | None = None
    dimensions: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.text is None) == (self.texts is None):
            raise ValueError("give exactly one of text and texts")
        return self


class SimilarityForm(Form):
    """POST /api/v1/similarity: a text, and those it is compared with."""

    text: str
    texts: Annotated[list[str], Field(min_length=1, max_length=MOST_TEXTS - 1)]
    model: str | None = None


class _EmbeddingEndpoint(InferenceEndpoint):
    """Takes texts, and has their vectors made."""

    endpoint = "embeddings"

    async def _vectors(
        self, request: HttpRequest, model: Offer, texts: Sequence[Named]
    ) -> tuple[Generation, Vectors]:
        label = request.label  # type: ignore[attr-defined]
        wish = await embedding_wish(model, texts, endpoint=self.endpoint, label=label)
        async with self.generation(request, wish) as run:
            answer = await run.whole()
            run.refuse_cut()
        return run, vectors_of(answer.texts[0], count=len(texts))


class Embeddings(_EmbeddingEndpoint):
    """OpenAI's embeddings."""

    @extend_schema(
        operation_id="openai_embeddings",
        summary="Embed texts (OpenAI's API)",
        tags=["OpenAI"],
        request=EmbeddingsForm,
        responses={200: OpenApiTypes.OBJECT},
    )
    async def post(self, request: HttpRequest) -> HttpResponseBase:
        """A vector a text, in their order."""
        form = await body(request, EmbeddingsForm)
        model = await encoder(form.model, caller=self.caller)
        dimensions = known_dimensions(model, form.dimensions)
        run, vectors = await self._vectors(request, model, form.texts)
        found = listed(run, shortened(vectors, dimensions), form)
        return Json(found, headers=headers(run, form=form))


class PlainEmbeddings(_EmbeddingEndpoint):
    """The platform's own."""

    @extend_schema(
        operation_id="embeddings",
        summary="Embed a text, or several",
        tags=["Inference"],
        request=PlainEmbeddingsForm,
        responses={200: OpenApiTypes.OBJECT},
    )
    async def post(self, request: HttpRequest) -> HttpResponseBase:
        """`embedding` of a text, or `embeddings` in the texts' order; usage and cost."""
        started = time.perf_counter()
        form = await body(request, PlainEmbeddingsForm)
        model = await encoder(form.model, caller=self.caller)
        dimensions = known_dimensions(model, form.dimensions)
        one = form.text is not None
        texts = [Named(form.text or "", "text")] if one else _each(form.texts or [])
        run, vectors = await self._vectors(request, model, texts)
        found = shortened(vectors, dimensions)
        data: dict[str, Any] = {"dimensions": found.shape[1]}
        data |= {"embedding": found[0].tolist()} if one else {"embeddings": found.tolist()}
        return _answer(run, data, started)


class Similarity(_EmbeddingEndpoint):
    """How near texts are."""

    endpoint = "similarity"

    @extend_schema(
        operation_id="similarity",
        summary="How near texts are to a text",
        tags=["Inference"],
        request=SimilarityForm,
        responses={200: OpenApiTypes.OBJECT},
    )
    async def post(self, request: HttpRequest) -> HttpResponseBase:
        """The cosine of each of the texts with `text`, from -1 to 1, in their order."""
        started = time.perf_counter()
        form = await body(request, SimilarityForm)
        model = await encoder(form.model, caller=self.caller)
        texts = [Named(form.text, "text"), *_each(form.texts)]
        run, vectors = await self._vectors(request, model, texts)
        scores = (vectors[1:] @ vectors[0]).clip(-1, 1)
        return _answer(run, {"scores": scores.tolist()}, started)


def listed(run: Generation, vectors: Vectors, form: EmbeddingsForm) -> dict[str, Any]:
    """OpenAI's list of embeddings."""
    found = packed(vectors) if form.encoding_format == "base64" else vectors.tolist()
    used = run.ended.prompt_tokens
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": each}
            for index, each in enumerate(found)
        ],
        "model": run.job.model,
        "usage": {
            "prompt_tokens": used,
            "total_tokens": used,
            "cost": cost(run.ended.amount, run.ended.currency),
        },
    }


def _each(texts: Sequence[str]) -> list[Named]:
    return [Named(text, f"texts.{number}") for number, text in enumerate(texts)]


def _answer(run: Generation, data: dict[str, Any], started: float) -> Json:
    whole = {
        "request_id": str(run.job.id),
        "model": run.job.model,
        **data,
        **bill(run.ended),
        "latency_ms": round((time.perf_counter() - started) * 1000, 1),
    }
    return Json(whole, headers=headers(run))
