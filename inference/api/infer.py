"""POST /api/v1/infer and /api/v1/infer/stream: one prompt, one answer, and what it cost."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema

from inference.admission import Wish, room_for
from inference.api import prompts, sse
from inference.api.access import InferenceEndpoint, cost, headers, may_fall_back
from inference.api.forms import InferForm, WholeInferForm
from inference.api.structured import checked
from inference.catalog.offers import Offer, offer
from inference.fallback import served
from inference.generation import Answer, Generation
from inference.jobs import Leaving
from inference.stream import Ended, Piece
from kit.edge import Json, body, problem_body, refusal_of
from tenants.auth import Caller
from tenants.models import Priority


class _PromptEndpoint(InferenceEndpoint):
    """Takes one prompt."""

    async def _wish(self, request: HttpRequest, form: InferForm, *, endpoint: str) -> Wish:
        return await prompt_wish(
            self.caller,
            form,
            endpoint=endpoint,
            label=request.label,  # type: ignore[attr-defined]
            replace_it=may_fall_back(request),
        )


class Infer(_PromptEndpoint):
    """The whole answer at once."""

    @extend_schema(
        operation_id="infer",
        summary="Answer a prompt",
        tags=["Inference"],
        request=WholeInferForm,
        responses={200: OpenApiTypes.OBJECT, 202: OpenApiTypes.OBJECT},
    )
    async def post(self, request: HttpRequest) -> HttpResponseBase:
        """Text, usage and cost."""
        started = time.perf_counter()
        form = await body(request, WholeInferForm)
        wish = await self._wish(request, form, endpoint="infer")
        if form.background:
            return accepted(await self.start(request, wish))
        async with self.generation(request, wish) as run:
            answer = await run.whole(count=form.n)
        data = {
            "request_id": str(run.job.id),
            "model": run.job.model,
            **told(answer),
            **bill(answer.ended),
            "latency_ms": round((time.perf_counter() - started) * 1000, 1),
        }
        return Json(data, headers=headers(run, wish))


class InferStream(_PromptEndpoint):
    """The answer as server-sent events: `token` …, then `done` (or `error`)."""

    @extend_schema(
        operation_id="infer_stream",
        summary="Answer a prompt as server-sent events",
        tags=["Inference"],
        request=InferForm,
        responses={(200, "text/event-stream"): OpenApiTypes.STR},
    )
    async def post(self, request: HttpRequest) -> HttpResponseBase:
        """The stream."""
        form = await body(request, InferForm)
        wish = await self._wish(request, form, endpoint="infer.stream")
        async with AsyncExitStack() as stack:
            entered = self.generation(request, wish, leaving=Leaving.LINGER)
            run = await stack.enter_async_context(entered)
            await run.begun()
            return sse.response(events(run, stack.pop_all()), headers(run, wish))


async def prompt_wish(
    caller: Caller, form: InferForm, *, endpoint: str, label: str, replace_it: bool = True
) -> Wish:
    """A prompt as one user turn in the model's chat template; `replace_it`: see `served`."""
    asked = await offer(form.model, caller=caller)
    turns = [{"role": "user", "content": form.prompt}]
    wanted = await checked(form.wanted)

    async def build(model: Offer) -> Wish:
        prompt = await prompts.tokens(model, turns, param="prompt")
        room = room_for(model, prompt=len(prompt), max_tokens=form.max_tokens, param="prompt")
        sampling = form.sampling(model, max_tokens=room, wanted=wanted)
        return Wish(
            offer=model,
            prompt=prompt,
            sampling=sampling,
            endpoint=endpoint,
            label=label,
            messages=turns,
            n=form.n,
            seeded=form.seed is not None,
            priority=None if form.priority is None else Priority[form.priority.upper()],
            timeout=form.timeout or 0.0,
        )

    return await served(asked, build, caller=caller, replace_it=replace_it)


def accepted(request: UUID) -> Json:
    """What is said of a request that runs in background."""
    where = f"/api/v1/requests/{request}"
    data = {
        "request_id": str(request),
        "state": "waiting",
        "url": where,
        "stream": f"{where}/stream",
    }
    return Json(data, status=202, headers={"Location": where})


def told(answer: Answer) -> dict[str, Any]:
    """The text and how it ended; where several answers were asked for, each one's too."""
    data: dict[str, Any] = {"text": answer.texts[0], "finish_reason": answer.reasons[0]}
    if len(answer.texts) > 1:
        data |= {"texts": answer.texts, "finish_reasons": answer.reasons}
    return data


def bill(ended: Ended) -> dict[str, Any]:
    """Usage and cost, as booked; and what had the answer, where no model made it."""
    return ({"cache": ended.cache} if ended.cache else {}) | {
        "usage": {
            "prompt_tokens": ended.prompt_tokens,
            "cached_tokens": ended.cached_tokens,
            "completion_tokens": ended.completion_tokens,
            "reasoning_tokens": ended.reasoning_tokens,
            "total_tokens": ended.total_tokens,
        },
        "cost": cost(ended.amount, ended.currency),
    }


def token(piece: Piece) -> dict[str, Any]:
    """An event's data; `choice` says of which answer it is, but for the first."""
    data = {"text": piece.text, "position": piece.position}
    return {**data, "choice": piece.choice} if piece.choice else data


async def events(run: Generation, stack: AsyncExitStack) -> AsyncIterator[bytes]:
    """The stream of a run, as server-sent events; `stack` is closed with it."""
    request = str(run.job.id)
    async with stack:
        try:
            yield sse.event({"request_id": request, "model": run.job.model}, name="start")
            async for piece in run.pieces():
                if piece.text:
                    yield sse.event(token(piece), name="token", entry=piece.entry)
            ended = run.ended
            done = {"request_id": request, "finish_reason": ended.reason, **bill(ended)}
            yield sse.event(done, name="done", entry=ended.entry)
        except Exception as error:
            yield sse.event(problem_body(refusal_of(error), request), name="error")
