"""/api/v1/infer/batch: prompts in one body, answered by and by, each with its own outcome."""

from typing import Annotated, Any

import orjson
from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import Field

from inference.api.access import InferenceEndpoint
from inference.api.batches import begin_soon
from inference.api.files import limit
from inference.api.forms import Form
from inference.batches import batch as life
from inference.batches import results
from inference.batches.batch import Asked
from inference.batches.models import Batch
from inference.batches.results import Result
from kit import origin
from kit.edge import Json, body
from kit.errors import Invalid
from kit.threads import in_thread

MOST_REQUESTS = 1_000
_PAGE = 100
_ENDPOINT = "/api/v1/infer"


class InferBatchForm(Form):
    """POST /api/v1/infer/batch. Each of the requests is a body of /api/v1/infer/stream."""

    requests: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MOST_REQUESTS)]


class InferBatch(InferenceEndpoint):
    """Takes prompts."""

    runs_models = False

    @extend_schema(
        operation_id="infer_batch",
        summary="Answer many prompts, by and by",
        tags=["Inference"],
        request=InferBatchForm,
        responses={202: OpenApiTypes.OBJECT},
    )
    async def post(self, request: HttpRequest) -> HttpResponseBase:
        """Where to look for progress and results. What is wrong with one is its own outcome."""
        form = await body(request, InferBatchForm)
        lines = [Asked(str(n), orjson.dumps(each)) for n, each in enumerate(form.requests)]
        made = await in_thread(
            life.make,
            self.caller,
            endpoint=_ENDPOINT,
            input_file=None,
            lines=lines,
            now=timezone.now(),
            label=request.label,  # type: ignore[attr-defined]
            project=origin.current().project,
            identifier=await self.made_once(request, endpoint=_ENDPOINT),
        )
        await begin_soon()
        data = _progress(made)
        return Json(data, status=202, headers={"Location": data["url"]})


class OneInferBatch(InferenceEndpoint):
    """Progress and results."""

    runs_models = False

    @extend_schema(
        operation_id="infer_batch_retrieve",
        summary="Progress and results of a batch of prompts",
        tags=["Inference"],
        parameters=[
            OpenApiParameter("after", int, description="The last index of the page before."),
            OpenApiParameter("limit", int, description=f"1 to {MOST_REQUESTS}; default {_PAGE}."),
        ],
        responses={200: OpenApiTypes.OBJECT},
    )
    async def get(self, request: HttpRequest, name: str) -> HttpResponseBase:
        """A page of results in the requests' order."""
        found = await in_thread(_one, self.caller.organization, name)
        most, after = limit(request, usual=_PAGE, most=MOST_REQUESTS), _after(request)
        rows = await in_thread(results.read, found, after=after, most=most + 1)
        data = _progress(found)
        data["results"] = [_shown(row, found) for row in rows[:most]]
        data["next"] = rows[most - 1].number if len(rows) > most else None
        return Json(data)


class InferBatchCancel(InferenceEndpoint):
    """Stops it."""

    runs_models = False

    @extend_schema(
        operation_id="infer_batch_cancel",
        summary="Stop a batch of prompts",
        tags=["Inference"],
        request=None,
        responses={200: OpenApiTypes.OBJECT},
    )
    async def post(self, request: HttpRequest, name: str) -> HttpResponseBase:
        """Answers that are whole by then stay, and are billed."""
        organization = self.caller.organization
        await in_thread(_one, organization, name)
        found = await in_thread(life.cancel, organization, name, now=timezone.now())
        await begin_soon()
        return Json(_progress(found))


def _one(organization: int, name: str) -> Batch:
    found = life.one(organization, name)
    if found.input_file is not None:
        raise life.NoBatch(f"{name} is a batch of a file: GET /v1/batches/{name}.")
    return found


def _progress(batch: Batch) -> dict[str, Any]:
    identifier = f"batch_{batch.pk.hex}"
    ended = batch.completed + batch.failed
    return {
        "batch_id": identifier,
        "state": batch.state,
        "total": batch.total,
        "completed": batch.completed,
        "failed": batch.failed,
        "progress": round(ended / batch.total, 4) if batch.total else 0.0,
        "created_at": batch.created_at,
        "ended_at": batch.ended_at,
        "url": f"/api/v1/infer/batch/{identifier}",
    }


def _shown(row: Result, batch: Batch) -> dict[str, Any]:
    data: dict[str, Any] = {"index": row.number, "request_id": str(row.request)}
    if row.status is None:
        return {**data, "state": "waiting" if batch.ended_at is None else batch.state}
    if row.status >= 400:
        return {**data, "state": "failed", "status": row.status, "error": row.body["error"]}
    return {**data, "state": "done", "status": row.status, "answer": row.body}


def _after(request: HttpRequest) -> int:
    text = request.GET.get("after", "-1")
    if text != "-1" and not (text.isascii() and text.isdigit() and len(text) < 9):
        raise Invalid(f"after must be an index, not {text[:40]!r}.", param="after")
    return int(text)
