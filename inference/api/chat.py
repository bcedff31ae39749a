"""POST /v1/chat/completions, to the letter of OpenAI's schema."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import structlog
from django.http import HttpRequest, HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema

from inference.admission import Wish, room_for
from inference.api import prompts, sse
from inference.api.access import InferenceEndpoint, headers, may_fall_back
from inference.api.chat_forms import ChatForm, Tool
from inference.api.forms import Wanted
from inference.api.logprobs import token_logprobs
from inference.api.structured import checked
from inference.api.tools import Called, Reader, Said, deltas, described, message, offered, turns
from inference.api.tools import wanted as answer_wanted
from inference.catalog.offers import Offer, UnknownModel, offer
from inference.engine import Text
from inference.fallback import served
from inference.generation import Generation
from inference.stream import Ended, Piece
from kit.edge import Broken, Json, body, openai_body
from kit.errors import Invalid, Refused
from kit.ids import made_at

log = structlog.get_logger()


class ChatCompletions(InferenceEndpoint):
    """Answers a chat, whole or streamed."""

    @extend_schema(
        operation_id="chat_completions",
        summary="Answer a chat (OpenAI's API)",
        tags=["OpenAI"],
        request=ChatForm,
        responses={200: OpenApiTypes.OBJECT},
    )
    async def post(self, request: HttpRequest) -> HttpResponseBase:
        """An answer, or its stream with `"stream": true`."""
        form = await body(request, ChatForm)
        tools = offered(form)
        wish = await self._wish(request, form, tools)
        async with AsyncExitStack() as stack:
            run = await stack.enter_async_context(self.generation(request, wish))
            text = await spoken(run, wish)
            answer = _Answer(text=text, tools=bool(tools), logprobs=bool(form.logprobs))
            if form.stream:
                usage = form.stream_options is not None and form.stream_options.include_usage
                chunks = _chunks(run, answer, stack.pop_all(), usage=usage)
                return sse.response(chunks, headers(run, wish))
            return Json(await _completion(run, answer), headers=headers(run, wish))

    async def _wish(self, request: HttpRequest, form: ChatForm, tools: Sequence[Tool]) -> Wish:
        asked = await offer(form.model, allowed=self.caller.models)
        wanted = await checked(answer_wanted(form, tools))

        async def build(model: Offer) -> Wish:
            return await self._build(request, form, tools, model, wanted)

        return await served(
            asked, build, allowed=self.caller.models, replace_it=may_fall_back(request)
        )

    async def _build(
        self,
        request: HttpRequest,
        form: ChatForm,
        tools: Sequence[Tool],
        model: Offer,
        wanted: Wanted | None,
    ) -> Wish:
        if tools and model.remote is not None:
            raise Invalid(
                "tools: not available for models that another server runs.", param="tools"
            )
        native, must = model.text.knows_tools, form.tool_choice != "auto"
        messages = turns(form.messages, tools, native=native, must=must)
        told = described(tools) if native else []
        prompt = await prompts.tokens(model, messages, told, param="messages")
        most = form.max_completion_tokens or form.max_tokens
        room = room_for(model, prompt=len(prompt), max_tokens=most, param="messages")
        return Wish(
            offer=model,
            prompt=prompt,
            sampling=form.sampling(
                model, max_tokens=room, wanted=wanted, logprobs=form.alternatives
            ),
            endpoint="chat.completions",
            label=request.label,  # type: ignore[attr-defined]
            messages=messages,
        )


async def spoken(run: Generation, wish: Wish) -> Text:
    """The text of the model that serves; a repeated request may have another than today's wish."""
    if run.job.model != wish.offer.name:
        with suppress(UnknownModel):
            return (await offer(run.job.model, allowed=frozenset())).text
    return wish.offer.text


class _Answer:
    """Pieces in, OpenAI's deltas and log-probabilities out."""

    def __init__(self, *, text: Text, tools: bool, logprobs: bool) -> None:
        self._text = text
        self._reader = Reader() if tools else None
        self._logprobs = logprobs

    @property
    def calls(self) -> int:
        """How many calls have begun."""
        return 0 if self._reader is None else self._reader.calls

    def take(self, text: str) -> list[Said | Called]:
        """What this text says."""
        if self._reader is None:
            return [Said(text)] if text else []
        return self._reader.feed(text)

    def rest(self) -> list[Said | Called]:
        """What was held back, now that the answer has ended."""
        return [] if self._reader is None else self._reader.flush()

    def logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        """Of the tokens of these pieces; None where they were not asked for."""
        if not self._logprobs:
            return None
        return {"content": [*token_logprobs(self._text, pieces)], "refusal": None}


async def _chunks(
    run: Generation, answer: _Answer, stack: AsyncExitStack, *, usage: bool
) -> AsyncIterator[bytes]:
    empty: dict[str, Any] = {"usage": None} if usage else {}
    head = _head(run, "chat.completion.chunk")
    request = run.job.id.hex

    def chunk(delta: dict[str, Any], **more: Any) -> bytes:
        return sse.event({**head, "choices": [_choice(delta=delta, **more)], **empty})

    async with stack:
        try:
            yield chunk({"role": "assistant", "content": "", "refusal": None})
            async for piece in run.pieces():
                delta = deltas(answer.take(piece.text), request)
                logprobs = answer.logprobs([piece])
                if delta or (logprobs and logprobs["content"]):
                    yield chunk(delta, logprobs=logprobs)
            if rest := deltas(answer.rest(), request):
                yield chunk(rest)
            yield chunk({}, finish_reason=_finish_reason(run.ended, calls=answer.calls))
            if usage:
                yield sse.event({**head, "choices": [], "usage": _usage(run.ended)})
            yield b"data: [DONE]\n\n"
        except Refused as refusal:
            yield sse.event(openai_body(refusal))
        except Exception:
            log.exception("a stream broke")
            yield sse.event(openai_body(Broken("Something broke on our side.")))


async def _completion(run: Generation, answer: _Answer) -> dict[str, Any]:
    pieces = [piece async for piece in run.pieces()]
    events = answer.take("".join(piece.text for piece in pieces)) + answer.rest()
    choice = _choice(
        message=message(events, run.job.id.hex),
        logprobs=answer.logprobs(pieces),
        finish_reason=_finish_reason(run.ended, calls=answer.calls),
    )
    return {**_head(run, "chat.completion"), "choices": [choice], "usage": _usage(run.ended)}


def _head(run: Generation, kind: str) -> dict[str, Any]:
    job = run.job
    return {
        "id": f"chatcmpl-{job.id.hex}",
        "object": kind,
        "created": int(made_at(job.id).timestamp()),
        "model": job.model,
        "system_fingerprint": f"fp_{job.model_version}",
    }


def _choice(
    *, finish_reason: str | None = None, logprobs: dict[str, Any] | None = None, **content: Any
) -> dict[str, Any]:
    return {"index": 0, **content, "logprobs": logprobs, "finish_reason": finish_reason}


def _finish_reason(ended: Ended, *, calls: int) -> str:
    if ended.reason in {"length", "timeout"}:
        return "length"
    return "tool_calls" if calls else "stop"


def _usage(ended: Ended) -> dict[str, Any]:
    return {
        "prompt_tokens": ended.prompt_tokens,
        "completion_tokens": ended.completion_tokens,
        "total_tokens": ended.total_tokens,
        "prompt_tokens_details": {"cached_tokens": ended.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
