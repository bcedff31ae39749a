"""/v1/responses: a chat by items, kept, and answered as a whole or by typed events."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema

from inference import jobs, responses
from inference.admission import Wish
from inference.api import openai, parameters, sse
from inference.api.access import InferenceEndpoint, headers, may_fall_back
from inference.api.chat import chat_wish
from inference.api.files import limit
from inference.api.response_forms import ResponseForm, chat_of, in_its_words
from inference.api.response_items import context_of, echo, listed
from inference.api.response_output import (
    Asked,
    Event,
    Output,
    finished,
    last_event,
    name_of,
    numbered,
    output_of,
    whole,
)
from inference.catalog.offers import UnknownModel, offer
from inference.engine import Text
from inference.generation import Generation, may_read, reading
from inference.jobs import Leaving
from inference.responses import Found, NoResponse
from kit.edge import Json, body, refusal_of
from kit.errors import Invalid, Refused
from tenants.models import Retention

_FROM = [
    OpenApiParameter("stream", bool, description="Its events, from the beginning or from there."),
    OpenApiParameter("starting_after", int, description="The number of the event read last."),
]
_PAGE = [
    OpenApiParameter("after", str, description="The id of the page before's last item."),
    OpenApiParameter("limit", int, description="1 to 100; default 20."),
    OpenApiParameter("order", str, enum=["asc", "desc"], description="Default: desc."),
]
_BOTH = {
    (200, "application/json"): OpenApiTypes.OBJECT,
    (200, "text/event-stream"): OpenApiTypes.STR,
}


class _ResponseEndpoint(InferenceEndpoint):
    """Knows the organization's responses by name."""

    async def found(self, name: str, *, param: str | None = None) -> Found:
        """Raises `NoResponse`."""
        organization = self.caller.organization
        with suppress(ValueError):
            request = UUID(name.removeprefix("resp_"))
            found = await responses.find(organization=organization, request=request)
            if found is not None and may_read(self.caller, model=found.model, key=found.key):
                return found
        raise NoResponse.of(name, param=param)


class Responses(_ResponseEndpoint):
    """Answers input, whole, streamed or in background."""

    @extend_schema(
        operation_id="responses_create",
        summary="Answer input (OpenAI's API)",
        tags=["OpenAI"],
        request=ResponseForm,
        responses=_BOTH,
    )
    async def post(self, request: HttpRequest) -> HttpResponseBase:
        """A response, or its events with `"stream": true`."""
        form = await body(request, ResponseForm)
        wish, said = await self._wish(request, form)
        if form.background:
            return await self._background(request, form, wish)
        async with AsyncExitStack() as stack:
            run = await stack.enter_async_context(self.generation(request, wish))
            asked = Asked(run.job.id, run.job.model, said)
            text = await openai.spoken(run, wish) if form.logprobs else None
            output = Output(run.job.id, tools=_offers(form), text=text)
            if form.stream:
                await run.begun()
                events = _told(numbered(_events(run, asked, output)), stack.pop_all())
                return sse.response(events, headers(run, wish, form))
            response = await _answered(run, asked, output)
            return Json(response, headers=headers(run, wish, form))

    async def _wish(self, request: HttpRequest, form: ResponseForm) -> tuple[Wish, dict[str, Any]]:
        """What it asks for, and what it says of that."""
        context: list[dict[str, Any]] = []
        if form.previous_response_id is not None:
            context = context_of(
                await self.found(form.previous_response_id, param="previous_response_id")
            )
        try:
            wish = await chat_wish(
                self.caller,
                chat_of(form, context),
                label=request.label,  # type: ignore[attr-defined]
                replace_it=may_fall_back(request),
            )
        except Refused as refusal:
            raise in_its_words(refusal) from None
        said, frame = echo(form, wish.sampling), None
        if form.store is not False and self.caller.retention != Retention.NOTHING:
            frame = {
                "echo": said,
                "input": form.items,
                "context": context,
                "tools": _offers(form),
                "logprobs": form.logprobs,
            }
        elif form.background:
            raise Invalid(
                "background: your organization keeps nothing, so that it could not be read; leave "
                "it out.",
                param="background",
            )
        return replace(wish, endpoint="responses", frame=frame), said

    async def _background(
        self, request: HttpRequest, form: ResponseForm, wish: Wish
    ) -> HttpResponseBase:
        identifier = await self.start(request, wish)
        if form.stream:
            return await _replay(self, identifier, None, parameters.header(form))
        found = await self.found(name_of(identifier))
        return Json(whole(found, await _text(found)), headers=parameters.header(form))


class OneResponse(_ResponseEndpoint):
    """A response that is kept."""

    runs_models = False

    @extend_schema(
        operation_id="responses_retrieve",
        summary="A response, so far or whole (OpenAI's API)",
        tags=["OpenAI"],
        parameters=_FROM,
        responses=_BOTH,
    )
    async def get(self, request: HttpRequest, name: str) -> HttpResponseBase:
        """It, or with `stream=true` its events."""
        found = await self.found(name)
        if _flag(request, "stream"):
            return await _replay(self, found.request, _starting_after(request), {})
        return Json(whole(found, await _text(found)))

    @extend_schema(
        operation_id="responses_delete",
        summary="Delete a response (OpenAI's API)",
        tags=["OpenAI"],
        responses={200: OpenApiTypes.OBJECT},
    )
    async def delete(self, request: HttpRequest, name: str) -> HttpResponseBase:
        """What was asked and answered is forgotten, and stopped if it runs; its figures stay. What
        later responses had of it as context is theirs."""
        found = await self.found(name)
        organization = self.caller.organization
        await jobs.cancel(request=found.request, organization=organization)
        await responses.erase(organization=organization, request=found.request, now=timezone.now())
        return Json({"id": name_of(found.request), "object": "response", "deleted": True})


class ResponseCancel(_ResponseEndpoint):
    """Stops a response that runs in background."""

    runs_models = False

    @extend_schema(
        operation_id="responses_cancel",
        summary="Stop a response in background (OpenAI's API)",
        tags=["OpenAI"],
        request=None,
        responses={200: OpenApiTypes.OBJECT},
    )
    async def post(self, request: HttpRequest, name: str) -> HttpResponseBase:
        """Within a step; what was delivered until then is billed. Ended ones stay as they are."""
        found = await self.found(name)
        if not found.frame["echo"]["background"]:
            raise Invalid(
                f"{name} does not run in background; who waits for it stops it by leaving.",
                param="response_id",
            )
        organization = self.caller.organization
        if found.ended is None:
            await jobs.cancel(request=found.request, organization=organization)
            with suppress(Refused):
                async with reading(caller=self.caller, request=found.request) as run:
                    async for _ in run.pieces():
                        pass
            found = await self.found(name)
        return Json(whole(found, await _text(found)))


class ResponseItems(_ResponseEndpoint):
    """What a response was asked."""

    runs_models = False

    @extend_schema(
        operation_id="responses_input_items",
        summary="What a response was asked (OpenAI's API)",
        tags=["OpenAI"],
        parameters=_PAGE,
        responses={200: OpenApiTypes.OBJECT},
    )
    async def get(self, request: HttpRequest, name: str) -> HttpResponseBase:
        """A page of its own items; those of earlier responses are theirs."""
        found = await self.found(name)
        order = request.GET.get("order", "desc")
        if order not in {"asc", "desc"}:
            raise Invalid(f"order must be asc or desc, not {order[:40]!r}.", param="order")
        most = limit(request, usual=20, most=100)
        return Json(
            listed(found, after=request.GET.get("after"), most=most, newest=order == "desc")
        )


async def _replay(
    endpoint: _ResponseEndpoint, request: UUID, after: int | None, more: Mapping[str, str]
) -> HttpResponseBase:
    """The events of a response that was sent before, as far as it is and on from there."""
    found = await endpoint.found(name_of(request))
    asked, output = Asked.of(found), output_of(found, await _text(found))
    stack = AsyncExitStack()
    if found.ended is not None:
        events = _kept_events(found, asked, output)
    else:
        entered = reading(caller=endpoint.caller, request=request, leaving=Leaving.CONTINUE)
        events = _events(await stack.enter_async_context(entered), asked, output)
    return sse.response(_told(numbered(events, after=after), stack), more)


async def _answered(run: Generation, asked: Asked, output: Output) -> dict[str, Any]:
    """The whole response."""
    async for piece in run.pieces():
        for _ in output.take(piece):
            pass
    return await _finished(run, asked, output)


async def _events(run: Generation, asked: Asked, output: Output) -> AsyncIterator[Event]:
    """A run's, as they come; one that could not be finished ends with `response.failed`."""
    for event in _first(asked):
        yield event
    try:
        async for piece in run.pieces():
            for event in output.take(piece):
                yield event
        response = await _finished(run, asked, output)
    except Exception as broken:
        error = {"code": "server_error", "message": refusal_of(broken).message}
        response = asked.response("failed", output=output.items, error=error)
    else:
        for event in output.ending:
            yield event
    yield last_event(response)


async def _kept_events(found: Found, asked: Asked, output: Output) -> AsyncIterator[Event]:
    """Those of a response that has ended, again."""
    assert found.ended is not None  # noqa: S101  the caller's choice, not its data
    for event in _first(asked):
        yield event
    for piece in found.pieces:
        for event in output.take(piece):
            yield event
    response = finished(asked, output, found.ended, found.ended_at)
    for event in output.ending:
        yield event
    yield last_event(response)


def _first(asked: Asked) -> list[Event]:
    response = asked.response("in_progress")
    return [
        {"type": f"response.{name}", "response": response} for name in ("created", "in_progress")
    ]


async def _finished(run: Generation, asked: Asked, output: Output) -> dict[str, Any]:
    return finished(asked, output, run.ended, await responses.ended_at(run.job.id))


async def _told(events: AsyncIterator[Event], stack: AsyncExitStack) -> AsyncIterator[bytes]:
    async with stack:
        async for event in events:
            yield sse.event(event, name=event["type"])


async def _text(found: Found) -> Text | None:
    """Of the model that answered, where the tokens' log-probabilities are wanted."""
    if found.frame["logprobs"]:
        with suppress(UnknownModel):
            return (await offer(found.model, caller=None)).text
    return None


def _offers(form: ResponseForm) -> bool:
    """Whether the answer may call functions."""
    return bool(form.tools) and form.tool_choice != "none"


def _flag(request: HttpRequest, name: str) -> bool:
    given = request.GET.get(name, "false").lower()
    if given not in {"true", "false"}:
        raise Invalid(f"{name} must be true or false, not {given[:40]!r}.", param=name)
    return given == "true"


def _starting_after(request: HttpRequest) -> int | None:
    given = request.GET.get("starting_after")
    if given is None:
        return None
    if not given.isdecimal() or len(given) > 9:
        raise Invalid(
            f"starting_after must be an event's sequence_number, not {given[:40]!r}.",
            param="starting_after",
        )
    return int(given)
