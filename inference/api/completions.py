"""POST /v1/completions: texts go on, without a chat's template; OpenAI's older schema."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Literal

from django.http import HttpRequest, HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from pydantic import Field

from inference.admission import EmptyPrompt, Wish, room_for
from inference.api import openai, sse
from inference.api.access import InferenceEndpoint, headers, may_fall_back
from inference.api.chat_forms import StreamOptions, User
from inference.api.forms import SamplingForm, Token, Wanted, known_token
from inference.api.logprobs import token_logprobs
from inference.api.parameters import Refused
from inference.api.prompts import encoded
from inference.api.structured import checked
from inference.catalog.offers import Offer, offer
from inference.engine import Text
from inference.fallback import served
from inference.generation import Generation
from inference.jobs import MOST_CHOICES
from inference.stream import Piece
from kit.edge import Json, body
from kit.errors import Invalid
from tenants.auth import Caller

_USUAL_TOKENS = 16
"""OpenAI's default here."""
_MOST_ALTERNATIVES = 5
_MOST_ANSWERS = 64
"""To all prompts of a request."""


class CompletionForm(SamplingForm):
    """POST /v1/completions. A prompt as text or as tokens, or several."""

    model: str
    prompt: str | list[Token] | list[str] | list[list[Token]] = Field(
        description=f"Up to {_MOST_ANSWERS} answers in all: prompts times `n`."
    )
    max_tokens: int | None = Field(None, ge=1)
    n: int = Field(1, ge=1, le=MOST_CHOICES, description="How many answers to each prompt.")
    logprobs: int | None = Field(None, ge=0, le=_MOST_ALTERNATIVES)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: User = None
    echo: Annotated[Literal[False] | None, Refused("the answer is what comes next alone")] = None
    best_of: Annotated[Literal[1] | None, Refused("ask for n answers and choose")] = None
    suffix: Annotated[None, Refused("no model here fills gaps")] = None

    @property
    def prompts(self) -> list["_Prompt"]:
        """Each, and its name. Raises `Invalid` where there are none, or too many."""
        given: Any = self.prompt
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            return [_Prompt("prompt", given)]
        if not given:
            raise EmptyPrompt("prompt is empty; give at least one.", param="prompt")
        if len(given) * self.n > _MOST_ANSWERS:
            raise Invalid(
                f"prompt: {len(given)} prompts with {self.n} answers each are more than the "
                f"{_MOST_ANSWERS} answers that a request may have; send them in several.",
                param="prompt",
            )
        return [_Prompt(f"prompt.{which}", each) for which, each in enumerate(given)]


@dataclass(frozen=True, slots=True)
class _Prompt:
    """One prompt, and where it stands in the body."""

    param: str
    content: str | Sequence[int]


class Completions(InferenceEndpoint):
    """Continues a text, whole or streamed."""

    @extend_schema(
        operation_id="completions",
        summary="Continue a text (OpenAI's API)",
        tags=["OpenAI"],
        request=CompletionForm,
        responses={
            (200, "application/json"): OpenApiTypes.OBJECT,
            (200, "text/event-stream"): OpenApiTypes.STR,
        },
    )
    async def post(self, request: HttpRequest) -> HttpResponseBase:
        """What comes next, or its stream with `"stream": true`."""
        form = await body(request, CompletionForm)
        wish = await completion_wish(
            self.caller,
            form,
            label=request.label,  # type: ignore[attr-defined]
            replace_it=may_fall_back(request),
        )
        async with AsyncExitStack() as stack:
            run = await stack.enter_async_context(self.generation(request, wish))
            if form.stream:
                await run.begun()
                usage = form.stream_options is not None and form.stream_options.include_usage
                chunks = _chunks(run, await _answers(run, form, wish), usage=usage)
                return sse.response(openai.told(chunks, stack.pop_all()), headers(run, wish, form))
            return Json(await completion(run, form, wish), headers=headers(run, wish, form))


async def completion_wish(
    caller: Caller, form: CompletionForm, *, label: str, replace_it: bool
) -> Wish:
    """What goes on with a text; `replace_it`: see `served`."""
    asked = await offer(form.model, caller=caller)
    wanted = await checked(form.wanted)

    async def build(model: Offer) -> Wish:
        return await _build(form, model, wanted, label)

    return await served(asked, build, caller=caller, replace_it=replace_it)


async def completion(run: Generation, form: CompletionForm, wish: Wish) -> dict[str, Any]:
    """The whole answer."""
    return await _completion(run, await _answers(run, form, wish))


async def _answers(run: Generation, form: CompletionForm, wish: Wish) -> "list[_Answer]":
    text = await openai.spoken(run, wish)
    count = len(form.prompts) * form.n
    return [_Answer(n, text, logprobs=form.logprobs is not None) for n in range(count)]


async def _build(form: CompletionForm, model: Offer, wanted: Wanted | None, label: str) -> Wish:
    if model.remote is not None:
        raise Invalid(
            f"model: {model.name} is run by another server and answers chats alone; use "
            "/v1/chat/completions.",
            param="model",
        )
    most = _USUAL_TOKENS if form.max_tokens is None else form.max_tokens
    rows = [await _tokens(each, model, most) for each in form.prompts]
    return Wish(
        offer=model,
        prompt=tuple(chain.from_iterable(rows)),
        lengths=tuple(map(len, rows)) if len(rows) > 1 else (),
        sampling=form.sampling(model, max_tokens=most, wanted=wanted, logprobs=form.logprobs),
        endpoint="completions",
        label=label,
        messages=[_said(*each, model) for each in zip(form.prompts, rows, strict=True)],
        n=len(rows) * form.n,
        seeded=form.seed is not None,
    )


def _said(prompt: _Prompt, tokens: Sequence[int], model: Offer) -> dict[str, str]:
    """A prompt as the history keeps it, where its organization wants texts there."""
    if isinstance(prompt.content, str):
        return {"role": "user", "content": prompt.content}
    text = model.text.stream()
    return {"role": "user", "content": "".join(map(text.push, tokens))}


async def _tokens(prompt: _Prompt, model: Offer, most: int) -> tuple[int, ...]:
    """Raises `Invalid` for a token that the model lacks, and what `room_for` raises."""
    if isinstance(prompt.content, str):
        found = await encoded(model, prompt.content)
    else:
        found = tuple(known_token(model, token, prompt.param) for token in prompt.content)
    room_for(model, prompt=len(found), max_tokens=most, param=prompt.param)
    return found


class _Answer:
    """One answer: pieces in, text and OpenAI's older log-probabilities out."""

    def __init__(self, index: int, text: Text, *, logprobs: bool) -> None:
        self.index = index
        self.pieces: list[Piece] = []
        self.end = ""
        self._text = text
        self._logprobs = logprobs
        self._offset = 0

    def choice(self, pieces: Sequence[Piece], reason: str = "") -> dict[str, Any]:
        """OpenAI's choice of these pieces; `reason` is how it ended, if it did."""
        finish = "length" if reason in {"length", "timeout"} else "stop"
        return {
            "text": "".join(piece.text for piece in pieces),
            "index": self.index,
            "logprobs": self._older(pieces) if self._logprobs else None,
            "finish_reason": finish if reason else None,
        }

    def _older(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        entries = [*token_logprobs(self._text, pieces)]
        offsets = []
        for entry in entries:
            offsets.append(self._offset)
            self._offset += len(entry["token"])
        return {
            "tokens": [entry["token"] for entry in entries],
            "token_logprobs": [entry["logprob"] for entry in entries],
            "top_logprobs": [
                {top["token"]: top["logprob"] for top in entry["top_logprobs"]} for entry in entries
            ],
            "text_offset": offsets,
        }


async def _chunks(
    run: Generation, answers: Sequence[_Answer], *, usage: bool
) -> AsyncIterator[bytes]:
    head = openai.head(run, "text_completion", prefix="cmpl")
    empty: dict[str, Any] = {"usage": None} if usage else {}
    async for piece in run.pieces():
        answer = answers[piece.choice]
        answer.end = piece.end
        yield sse.event({**head, "choices": [answer.choice([piece], piece.end)], **empty})
    run.refuse_cut()
    for event in _last(run, answers):
        yield sse.event({**head, "choices": [event], **empty})
    if usage:
        yield sse.event({**head, "choices": [], "usage": openai.usage(run.ended)})


def _last(run: Generation, answers: Sequence[_Answer]) -> Iterator[dict[str, Any]]:
    return (answer.choice([], run.ended.reason) for answer in answers if not answer.end)


async def _completion(run: Generation, answers: Sequence[_Answer]) -> dict[str, Any]:
    async for piece in run.pieces():
        answers[piece.choice].pieces.append(piece)
        answers[piece.choice].end = piece.end
    run.refuse_cut()
    ended = run.ended
    return {
        **openai.head(run, "text_completion", prefix="cmpl"),
        "choices": [each.choice(each.pieces, each.end or ended.reason) for each in answers],
        "usage": openai.usage(ended),
    }
