"""/v1/batches: files of requests, carried out by and by at the price of batches."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import Field

from billing.soon import soon
from inference.api.access import InferenceEndpoint
from inference.api.files import limit, page
from inference.api.forms import Form
from inference.batches import batch as life
from inference.batches import files
from inference.batches.models import Batch, StoredFile
from kit import origin
from kit.edge import Json, body
from kit.errors import Invalid
from kit.threads import in_thread

_MOST = 100
_OURS = int(files.LONGEST.total_seconds())
_LEAST = int(files.SHORTEST.total_seconds())
State = Batch.State

MetadataName = Annotated[str, Field(max_length=64)]
MetadataText = Annotated[str, Field(max_length=512)]


class OutputExpiry(Form):
    """How long the batch's files are kept."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=_LEAST, le=_OURS)


class BatchForm(Form):
    """POST /v1/batches."""

    input_file_id: str
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
    completion_window: Literal["24h"]
    metadata: dict[MetadataName, MetadataText] | None = Field(None, max_length=16)
    output_expires_after: OutputExpiry | None = None


class Batches(InferenceEndpoint):
    """An organization's batches."""

    runs_models = False

    @extend_schema(
        operation_id="batches_create",
        summary="Begin a batch (OpenAI's API)",
        tags=["OpenAI"],
        request=BatchForm,
        responses={200: OpenApiTypes.OBJECT},
    )
    async def post(self, request: HttpRequest) -> HttpResponseBase:
        """Its file is looked through by a worker; `status` and `errors` say how that went."""
        form = await body(request, BatchForm)
        file = await in_thread(files.one, self.caller.organization, form.input_file_id)
        if file.purpose != StoredFile.Purpose.BATCH:
            raise Invalid(
                f"input_file_id: the file's purpose is {file.purpose}; it has to be batch.",
                param="input_file_id",
            )
        kept = form.output_expires_after.seconds if form.output_expires_after else _OURS
        project = origin.project((form.metadata or {}).get("project", ""))
        made = await in_thread(
            life.make,
            self.caller,
            endpoint=form.endpoint,
            input_file=file.pk,
            lines=(),
            now=timezone.now(),
            label=request.label,  # type: ignore[attr-defined]
            project=project or origin.current().project,
            metadata=form.metadata,
            keeps_files_for=timedelta(seconds=kept),
            identifier=await self.made_once(request, endpoint="batches"),
        )
        await begin_soon()
        return Json(described(made))

    @extend_schema(
        operation_id="batches_list",
        summary="List the batches (OpenAI's API)",
        tags=["OpenAI"],
        parameters=[
            OpenApiParameter("after", str, description="The id of the page before's last batch."),
            OpenApiParameter("limit", int, description=f"1 to {_MOST}; default 20."),
        ],
        responses={200: OpenApiTypes.OBJECT},
    )
    async def get(self, request: HttpRequest) -> HttpResponseBase:
        """A page of them, the newest first."""
        most = limit(request, usual=20, most=_MOST)
        found = await in_thread(
            life.listed, self.caller.organization, after=request.GET.get("after"), most=most + 1
        )
        return Json(page([described(each) for each in found], most))


class OneBatch(InferenceEndpoint):
    """How far a batch is."""

    runs_models = False

    @extend_schema(
        operation_id="batches_retrieve",
        summary="How far a batch is (OpenAI's API)",
        tags=["OpenAI"],
        responses={200: OpenApiTypes.OBJECT},
    )
    async def get(self, request: HttpRequest, name: str) -> HttpResponseBase:
        """Its state, counts and files."""
        return Json(described(await in_thread(life.one, self.caller.organization, name)))


class BatchCancel(InferenceEndpoint):
    """Stops a batch."""

    runs_models = False

    @extend_schema(
        operation_id="batches_cancel",
        summary="Stop a batch (OpenAI's API)",
        tags=["OpenAI"],
        request=None,
        responses={200: OpenApiTypes.OBJECT},
    )
    async def post(self, request: HttpRequest, name: str) -> HttpResponseBase:
        """What is done by then is in the output file, and billed."""
        now = timezone.now()
        found = await in_thread(life.cancel, self.caller.organization, name, now=now)
        await begin_soon()
        return Json(described(found))


async def begin_soon() -> None:
    """Tell the workers; should that be lost, the schedule tells them."""
    await in_thread(soon, "inference.run_batches")


def described(batch: Batch) -> dict[str, Any]:
    """OpenAI's batch object."""
    ended = {state: batch.ended_at if batch.state == state else None for state in State}
    errors = {"object": "list", "data": batch.errors} if batch.errors else None
    return {
        "id": f"batch_{batch.pk.hex}",
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": errors,
        "input_file_id": _file(batch.input_file) or "",
        "completion_window": "24h",
        "status": batch.state,
        "output_file_id": _file(batch.output_file),
        "error_file_id": _file(batch.error_file),
        "created_at": int(batch.created_at.timestamp()),
        "in_progress_at": _moment(batch.in_progress_at),
        "expires_at": _moment(batch.expires_at),
        "finalizing_at": _moment(batch.finalizing_at),
        "completed_at": _moment(ended[State.COMPLETED]),
        "failed_at": _moment(ended[State.FAILED]),
        "expired_at": _moment(ended[State.EXPIRED]),
        "cancelling_at": _moment(batch.cancelling_at),
        "cancelled_at": _moment(ended[State.CANCELLED]),
        "request_counts": {
            "total": batch.total,
            "completed": batch.completed,
            "failed": batch.failed,
        },
        "metadata": batch.metadata,
    }


def _file(key: Any) -> str | None:
    return None if key is None else f"file-{key.hex}"


def _moment(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())
