"""GET /api/v1/requests/{id}: an answer, while it is made and for a while after."""

import re
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema

from inference import history, jobs, texts
from inference.api import sse
from inference.api.access import InferenceEndpoint, headers, leaving_of
from inference.api.infer import bill, events
from inference.generation import not_kept, readable, reading, refuse_anothers
from inference.jobs import Leaving
from inference.live import so_far
from inference.stream import END, Ended, entry_order, texts_of
from kit.edge import Json
from kit.errors import Invalid
from kit.threads import in_thread
from tenants.models import Retention

AFTER = [
    OpenApiParameter("after", str, description="The id of the event read last."),
    OpenApiParameter(
        "Last-Event-ID", str, OpenApiParameter.HEADER, description="The same, as browsers say."
    ),
    OpenApiParameter(
        "X-On-Disconnect",
        str,
        OpenApiParameter.HEADER,
        enum=[each.value for each in Leaving],
        description="What leaving before the end does; default: linger.",
    ),
]
STREAMED = {(200, "text/event-stream"): OpenApiTypes.STR, 204: None}
_ENTRY = re.compile(r"[0-9]{1,16}-[0-9]{1,9}")


class OneRequest(InferenceEndpoint):
    """A request and its answer so far."""

    runs_models = False

    @extend_schema(
        operation_id="requests_retrieve",
        summary="The answer of a request, so far or whole",
        tags=["Requests"],
        responses={200: OpenApiTypes.OBJECT},
    )
    async def get(self, request: HttpRequest, identifier: UUID) -> HttpResponseBase:
        """Its state and text; usage and cost once it has ended. Later what the history keeps."""
        head = await jobs.head(request=identifier, organization=self.caller.organization)
        if head is None:
            return await self._remembered(identifier)
        refuse_anothers(self.caller, identifier, model=head.model, key=head.key)
        found = await so_far(organization=self.caller.organization, request=identifier)
        if head.state == "done" and not found and await self._is_forgotten(identifier):
            return await self._remembered(identifier)
        answers = texts_of(found)
        data: dict[str, Any] = {
            "request_id": str(identifier),
            "state": head.state,
            "model": head.model,
            "text": answers[0],
        }
        if len(answers) > 1:
            data["texts"] = answers
        if found and isinstance(found[-1], Ended):
            data |= {"finish_reason": found[-1].reason, **bill(found[-1])}
        return Json(data)

    async def _is_forgotten(self, identifier: UUID) -> bool:
        """Whether Redis lost its data between our looking at the request and at its stream."""
        found = await jobs.head(request=identifier, organization=self.caller.organization)
        return found is None

    async def _remembered(self, identifier: UUID) -> HttpResponseBase:
        """From the history, where the organization keeps texts there."""
        if self.caller.retention != Retention.TEXTS:
            raise await not_kept(self.caller, identifier)
        found = await in_thread(texts.read, self.caller.organization, identifier)
        row = await in_thread(history.row, self.caller.schema, identifier)
        if found is None or row is None:
            raise await not_kept(self.caller, identifier)
        refuse_anothers(self.caller, identifier, model=row.model, key=row.key)
        return Json(
            {
                "request_id": str(identifier),
                "state": "remembered",
                "messages": found.messages,
                "text": found.answers[0],
                "texts": found.answers,
                "finished_at": found.finished_at,
            }
        )


class RequestStream(InferenceEndpoint):
    """A request's events, from the beginning or from where a reader was."""

    runs_models = False

    @extend_schema(
        operation_id="requests_stream",
        summary="The events of a request, from where a reader was",
        tags=["Requests"],
        parameters=AFTER,
        responses=STREAMED,
    )
    async def get(self, request: HttpRequest, identifier: UUID) -> HttpResponseBase:
        """The stream; several readers may follow it at once. 204 behind its last event, which tells
        a browser to come back no more."""
        after = _after(request)
        if is_end(after):
            return HttpResponse(status=204)
        entered = reading(
            caller=self.caller,
            request=identifier,
            after=after,
            leaving=leaving_of(request, Leaving.LINGER),
        )
        async with AsyncExitStack() as stack:
            run = await stack.enter_async_context(entered)
            return sse.response(events(run, stack.pop_all()), headers(run))


class RequestCancel(InferenceEndpoint):
    """Stops a request."""

    runs_models = False

    @extend_schema(
        operation_id="requests_cancel",
        summary="Stop a request",
        tags=["Requests"],
        request=None,
        responses={200: OpenApiTypes.OBJECT},
    )
    async def post(self, request: HttpRequest, identifier: UUID) -> HttpResponseBase:
        """Within a step; what was delivered until then is billed. Ended ones stay as they are."""
        organization = self.caller.organization
        await readable(self.caller, identifier)
        cancelled = await jobs.cancel(request=identifier, organization=organization)
        return Json({"request_id": str(identifier), "cancelled": cancelled})


def entry(after: str, *, param: str = "after") -> str:
    """An event's id as a client gave it back; raises `Invalid`, naming `param`."""
    if after and not _ENTRY.fullmatch(after):
        raise Invalid(
            f"{param} must be an event's id of this stream, like 12-2, not {after[:40]!r}.",
            param=param,
        )
    return after


def is_end(after: str) -> bool:
    """Whether this is the id of a stream's last event: nothing comes after it."""
    return bool(after) and entry_order(after) >= entry_order(END)


def _after(request: HttpRequest) -> str:
    if after := request.GET.get("after"):
        return entry(after)
    return entry(request.headers.get("Last-Event-ID", ""), param="Last-Event-ID")
