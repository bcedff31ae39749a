"""POST /v1/chat/completions, to the letter of OpenAI's schema."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import structlog
from django.http import HttpRequest, HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema

from inference.admission import Wish, room_for
from inference.api import prompts, sse
from inference.api.access import InferenceEndpoint, headers
from inference.api.forms import ChatForm
from inference.catalog.offers import offer
from inference.generation import Generation
from inference.stream import Ended
from kit.edge import Broken, Json, body, openai_body
from kit.errors import Refused
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
        wish = await self._wish(request, form)
        async with AsyncExitStack() as stack:
            run = await stack.enter_async_context(self.generation(request, wish))
            if form.stream:
                usage = form.stream_options is not None and form.stream_options.include_usage
                return sse.response(_chunks(run, stack.pop_all(), usage=usage), headers(run))
            answer = await run.whole()
            return Json(_completion(run, answer.text, answer.ended), headers=headers(run))

    async def _wish(self, request: HttpRequest, form: ChatForm) -> Wish:
        model = await offer(form.model, allowed=self.caller.models)
        turns = [message.as_turn() for message in form.messages]
        prompt = await prompts.tokens(model, turns, param="messages")
        wanted = form.max_completion_tokens or form.max_tokens
        room = room_for(model, prompt=len(prompt), max_tokens=wanted, param="messages")
        return Wish(
            offer=model,
            prompt=prompt,
            sampling=form.sampling(model, max_tokens=room),
            endpoint="chat.completions",
            label=request.label,  # type: ignore[attr-defined]
            messages=turns,
        )


async def _chunks(run: Generation, stack: AsyncExitStack, *, usage: bool) -> AsyncIterator[bytes]:
    empty: dict[str, Any] = {"usage": None} if usage else {}
    head = _head(run, "chat.completion.chunk")
    async with stack:
        try:
            first = {"role": "assistant", "content": "", "refusal": None}
            yield sse.event({**head, "choices": [_choice(delta=first)], **empty})
            async for piece in run.pieces():
                if piece.text:
                    delta = {"content": piece.text}
                    yield sse.event({**head, "choices": [_choice(delta=delta)], **empty})
            last = _choice(delta={}, finish_reason=_finish_reason(run.ended))
            yield sse.event({**head, "choices": [last], **empty})
            if usage:
                yield sse.event({**head, "choices": [], "usage": _usage(run.ended)})
            yield b"data: [DONE]\n\n"
        except Refused as refusal:
            yield sse.event(openai_body(refusal))
        except Exception:
            log.exception("a stream broke")
            yield sse.event(openai_body(Broken("Something broke on our side.")))


def _completion(run: Generation, text: str, ended: Ended) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text,
        "refusal": None,
        "annotations": [],
    }
    choice = _choice(message=message, finish_reason=_finish_reason(ended))
    return {**_head(run, "chat.completion"), "choices": [choice], "usage": _usage(ended)}


def _head(run: Generation, kind: str) -> dict[str, Any]:
    job = run.job
    return {
        "id": f"chatcmpl-{job.id.hex}",
        "object": kind,
        "created": int(made_at(job.id).timestamp()),
        "model": job.model,
        "system_fingerprint": f"fp_{job.model_version}",
    }


def _choice(*, finish_reason: str | None = None, **content: Any) -> dict[str, Any]:
    return {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}


def _finish_reason(ended: Ended) -> str:
    return "length" if ended.reason in {"length", "timeout"} else "stop"


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
