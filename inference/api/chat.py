"""POST /v1/chat/completions, to the letter of OpenAI's schema."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

from django.http import HttpRequest, HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema

from inference.admission import Wish, room_for
from inference.api import openai, prompts, sse
from inference.api.access import InferenceEndpoint, headers, may_fall_back
from inference.api.chat_forms import ChatForm, Tool
from inference.api.forms import Wanted
from inference.api.logprobs import token_logprobs
from inference.api.structured import checked
from inference.api.tools import Called, Reader, Said, deltas, described, message, offered, turns
from inference.api.tools import wanted as answer_wanted
from inference.catalog.offers import Offer, offer
from inference.engine import Text
from inference.fallback import served
from inference.generation import Generation
from inference.stream import Piece
from kit import origin
from kit.edge import Json, body
from kit.errors import Invalid
from tenants.auth import Caller


class ChatCompletions(InferenceEndpoint):
    """Answers a chat, whole or streamed."""

    @extend_schema(
        operation_id="chat_completions",
        summary="Answer a chat (OpenAI's API)",
        tags=["OpenAI"],
        request=ChatForm,
        responses={
            (200, "application/json"): OpenApiTypes.OBJECT,
            (200, "text/event-stream"): OpenApiTypes.STR,
        },
    )
    async def post(self, request: HttpRequest) -> HttpResponseBase:
        """An answer, or its stream with `"stream": true`."""
        form = await body(request, ChatForm)
        wish = await chat_wish(
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
                chunks = _Chunks(run, await _answers(run, form, wish), usage=usage)
                events = openai.told(aiter(chunks), stack.pop_all())
                return sse.response(events, headers(run, wish, form))
            return Json(await chat_completion(run, form, wish), headers=headers(run, wish, form))


async def chat_wish(caller: Caller, form: ChatForm, *, label: str, replace_it: bool) -> Wish:
    """What a chat asks for; `replace_it`: see `served`."""
    tools = offered(form)
    asked = await offer(form.model, caller=caller)
    wanted = await checked(answer_wanted(form, tools))

    async def build(model: Offer) -> Wish:
        return await _build(form, tools, model, wanted, label)

    return await served(asked, build, caller=caller, replace_it=replace_it)


async def chat_completion(run: Generation, form: ChatForm, wish: Wish) -> dict[str, Any]:
    """The whole answer."""
    return await _completion(run, await _answers(run, form, wish))


async def _build(
    form: ChatForm, tools: Sequence[Tool], model: Offer, wanted: Wanted | None, label: str
) -> Wish:
    if tools and model.remote is not None:
        raise Invalid("tools: not available for models that another server runs.", param="tools")
    native, must = model.text.knows_tools, form.tool_choice != "auto"
    messages = turns(form.messages, tools, native=native, must=must)
    told = described(tools) if native else []
    prompt = await prompts.tokens(model, messages, told, param="messages")
    most = form.max_completion_tokens or form.max_tokens
    room = room_for(model, prompt=len(prompt), max_tokens=most, param="messages")
    return Wish(
        offer=model,
        prompt=prompt,
        sampling=form.sampling(model, max_tokens=room, wanted=wanted, logprobs=form.alternatives),
        endpoint="chat.completions",
        label=label,
        project=origin.project((form.metadata or {}).get("project", "")),
        messages=messages,
        n=form.n,
        seeded=form.seed is not None,
    )


async def _answers(run: Generation, form: ChatForm, wish: Wish) -> "list[_Answer]":
    text, tools = await openai.spoken(run, wish), bool(offered(form))
    return [
        _Answer(index, text=text, tools=tools, logprobs=bool(form.logprobs))
        for index in range(form.n)
    ]


class _Answer:
    """One answer: pieces in, OpenAI's deltas and log-probabilities out."""

    def __init__(self, index: int, *, text: Text, tools: bool, logprobs: bool) -> None:
        self.index = index
        self.pieces: list[Piece] = []
        self._text = text
        self._reader = Reader() if tools else None
        self._logprobs = logprobs

    @property
    def end(self) -> str:
        """How it ended, if it did before others."""
        return self.pieces[-1].end if self.pieces else ""

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

    def finish_reason(self, reason: str) -> str:
        """In OpenAI's words."""
        if reason in {"length", "timeout"}:
            return "length"
        return "tool_calls" if self.calls else "stop"


class _Chunks:
    """The stream of a run's answers, as chunks."""

    def __init__(self, run: Generation, answers: Sequence[_Answer], *, usage: bool) -> None:
        self._run = run
        self._answers = answers
        self._usage = usage
        self._head = openai.head(run, "chat.completion.chunk", prefix="chatcmpl")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for answer in self._answers:
            yield self._chunk(answer, {"role": "assistant", "content": "", "refusal": None})
        async for piece in self._run.pieces():
            for event in self._piece(self._answers[piece.choice], piece):
                yield event
        self._run.refuse_cut()
        for event in self._ends():
            yield event

    def _piece(self, answer: _Answer, piece: Piece) -> Iterator[bytes]:
        answer.pieces = [piece]
        delta = deltas(answer.take(piece.text), _calls_of(self._run, answer))
        logprobs = answer.logprobs([piece])
        if delta or (logprobs and logprobs["content"]):
            yield self._chunk(answer, delta, logprobs=logprobs)
        if piece.end:
            yield from self._last(answer, piece.end)

    def _ends(self) -> Iterator[bytes]:
        ended = self._run.ended
        for answer in self._answers:
            if not answer.end:
                yield from self._last(answer, ended.reason)
        if self._usage:
            yield sse.event({**self._head, "choices": [], "usage": openai.usage(ended)})

    def _last(self, answer: _Answer, reason: str) -> Iterator[bytes]:
        if rest := deltas(answer.rest(), _calls_of(self._run, answer)):
            yield self._chunk(answer, rest)
        yield self._chunk(answer, {}, finish_reason=answer.finish_reason(reason))

    def _chunk(self, answer: _Answer, delta: dict[str, Any], **more: Any) -> bytes:
        empty: dict[str, Any] = {"usage": None} if self._usage else {}
        choices = [_choice(answer, delta=delta, **more)]
        return sse.event({**self._head, "choices": choices, **empty})


async def _completion(run: Generation, answers: Sequence[_Answer]) -> dict[str, Any]:
    async for piece in run.pieces():
        answers[piece.choice].pieces.append(piece)
    run.refuse_cut()
    choices = []
    for answer in answers:
        events = answer.take("".join(piece.text for piece in answer.pieces)) + answer.rest()
        choice = _choice(
            answer,
            message=message(events, _calls_of(run, answer)),
            logprobs=answer.logprobs(answer.pieces),
            finish_reason=answer.finish_reason(answer.end or run.ended.reason),
        )
        choices.append(choice)
    head = openai.head(run, "chat.completion", prefix="chatcmpl")
    return {**head, "choices": choices, "usage": openai.usage(run.ended)}


def _calls_of(run: Generation, answer: _Answer) -> str:
    """Where the ids of an answer's tool calls begin."""
    return run.job.id.hex + (f"{answer.index:x}" if answer.index else "")


def _choice(
    answer: _Answer,
    *,
    finish_reason: str | None = None,
    logprobs: dict[str, Any] | None = None,
    **content: Any,
) -> dict[str, Any]:
    return {
        "index": answer.index,
        **content,
        "logprobs": logprobs,
        "finish_reason": finish_reason,
    }
