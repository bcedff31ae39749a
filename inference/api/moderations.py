"""POST /v1/moderations, in OpenAI's schema."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Annotated, Any, Literal

from django.http import HttpRequest, HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from pydantic import Field

from inference.api.access import InferenceEndpoint, headers
from inference.api.forms import Form
from inference.catalog.offers import Offer, encoder
from inference.embedding import Named, embedding_wish
from inference.engine import vectors_of
from inference.moderation.categories import Category
from inference.moderation.judging import Judgement, judge, prototypes
from kit.edge import Json, body
from kit.errors import Invalid
from kit.threads import in_thread

_OPENAIS = frozenset(
    {
        "omni-moderation-latest",
        "omni-moderation-2024-09-26",
        "text-moderation-latest",
        "text-moderation-stable",
    }
)
"""What its clients ask for unless told otherwise: the default encoder serves."""
_MOST_TEXTS = 256
_WINDOW, _OVERLAP = 96, 16
"""Tokens of a text that are judged together: one bad sentence in a long text is found."""


class ModeratedText(Form):
    """A text among several inputs. Images are not judged."""

    type: Literal["text"]
    text: str


class ModerationForm(Form):
    """POST /v1/moderations."""

    input: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=_MOST_TEXTS)]
        | Annotated[list[ModeratedText], Field(min_length=1, max_length=_MOST_TEXTS)]
    ) = Field(description="Text alone. Parts are judged together, texts each by itself.")
    model: str | None = Field(
        None, description="A sentence encoder; OpenAI's names stand for the default one."
    )

    @property
    def texts(self) -> list[Named]:
        """What is judged."""
        if isinstance(self.input, str):
            return [Named(self.input, "input")]
        if isinstance(self.input[0], ModeratedText):
            parts = [each.text for each in self.input if isinstance(each, ModeratedText)]
            return [Named("\n".join(parts), "input")]
        texts = [each for each in self.input if isinstance(each, str)]
        return [Named(each, f"input.{number}") for number, each in enumerate(texts)]


class Moderations(InferenceEndpoint):
    """Of which of OpenAI's categories texts are."""

    @extend_schema(
        operation_id="moderations",
        summary="Judge texts (OpenAI's API)",
        tags=["OpenAI"],
        request=ModerationForm,
        responses={200: OpenApiTypes.OBJECT},
    )
    async def post(self, request: HttpRequest) -> HttpResponseBase:
        """A result a text: scores from 0 to 1, and from 0.5 on a category. Charged as embeddings
        are. Rules and examples decide, not a trained model: docs/api.md says what that is worth."""
        form = await body(request, ModerationForm)
        model = await encoder(None if form.model in _OPENAIS else form.model, caller=self.caller)
        texts = form.texts
        windows = [[*_windows(model, each)] for each in texts]
        wish = await embedding_wish(
            model,
            [window for each in windows for window in each],
            endpoint="moderations",
            label=request.label,  # type: ignore[attr-defined]
        )
        like = await in_thread(prototypes, model)
        async with self.generation(request, wish) as run:
            answer = await run.whole()
            run.refuse_cut()
        vectors = vectors_of(answer.texts[0], count=len(wish.lengths))
        borders = pairwise(accumulate(map(len, windows), initial=0))
        judged = [
            judge(str(text.content), vectors[first:last], like)
            for text, (first, last) in zip(texts, borders, strict=True)
        ]
        return Json(
            {
                "id": f"modr-{run.job.id.hex}",
                "model": model.name,
                "results": [_result(each) for each in judged],
            },
            headers=headers(run),
        )


def _windows(model: Offer, text: Named) -> Iterator[Named]:
    """A text in pieces that the encoder reads, each with the end of the one before."""
    content = str(text.content)
    if not content.strip():
        raise Invalid(f"{text.param} is empty; there is nothing to judge.", param=text.param)
    tokens: Sequence[int] = model.reader.encode(content)[1:-1]
    for first in range(0, max(1, len(tokens) - _OVERLAP), _WINDOW - _OVERLAP):
        yield Named(tokens[first : first + _WINDOW], text.param)


def _result(judged: Judgement) -> dict[str, Any]:
    return {
        "flagged": judged.is_flagged,
        "categories": {name.value: found for name, found in judged.categories.items()},
        "category_scores": {name.value: score for name, score in judged.scores.items()},
        "category_applied_input_types": {category.value: ["text"] for category in Category},
    }
