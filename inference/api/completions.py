"""POST /v1/completions: text goes on, without a chat's template; OpenAI's older schema."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any, Literal

from django.http import HttpRequest, HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from pydantic import Field

from inference.admission import Wish, room_for
from inference.api import openai, sse
from inference.api.access import InferenceEndpoint, headers, may_fall_back
from inference.api.chat_forms import StreamOptions
from inference.api.forms import SamplingForm, Token, Wanted, known_token
from inference.api.logprobs import token_logprobs
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


class CompletionForm(SamplingForm):
    """POST /v1/completions. One prompt, as text or as tokens."""

    model: str
    prompt: str | list[Token] | list[str] | list[list[Token]]
    max_tokens: int | None = Field(None, ge=1)
    n: int = Field(1, ge=1, le=MOST_CHOICES, description="How many answers.")
    logprobs: int | None = Field(None, ge=0, le=_MOST_ALTERNATIVES)
    stream: bool = False
    stream_options: StreamOptions | None = None
    echo: Literal[False] | None = None
    best_of: None = None
    suffix: None = None
    user: str | None = Field(None, max_length=256)


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
                return sse.response(openai.told(chunks, stack.pop_all()), headers(run, wish))
            return Json(await completion(run, form, wish), headers=headers(run, wish))


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
    return [_Answer(n, text, logprobs=form.logprobs is not None) for n in range(form.n)]


async def _build(form: CompletionForm, model: Offer, wanted: Wanted | None, label: str) -> Wish:
    if model.remote is not None:
        raise Invalid(
            f"model: {model.name} is run by another server and answers chats alone; use "
            "/v1/chat/completions.",
            param="model",
        )
    prompt = await _prompt(form, model)
    most = _USUAL_TOKENS if form.max_tokens is None else form.max_tokens
    room = room_for(model, prompt=len(prompt), max_tokens=most, param="prompt")
    return Wish(
        offer=model,
        prompt=prompt,
        sampling=form.sampling(model, max_tokens=room, wanted=wanted, logprobs=form.logprobs),
        endpoint="completions",
        label=label,
        n=form.n,
        seeded=form.seed is not None,
    )


async def _prompt(form: CompletionForm, model: Offer) -> tuple[int, ...]:
    """Raises `Invalid`."""
    prompt: Any = form.prompt
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        if len(prompt) > 1:
            raise Invalid("prompt: one at a time; send a request for each.", param="prompt")
        [prompt] = prompt
    if isinstance(prompt, str):
        return await encoded(model, prompt)
    return tuple(known_token(model, token, "prompt") for token in prompt)


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
    ended = run.ended
    return {
        **openai.head(run, "text_completion", prefix="cmpl"),
        "choices": [each.choice(each.pieces, each.end or ended.reason) for each in answers],
        "usage": openai.usage(ended),
    }
