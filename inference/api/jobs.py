"""/api/v1/jobs/{id}: where a request is, without its text; and stopping it."""

from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from django.http import HttpRequest, HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from pydantic import BaseModel, Field

from inference import history
from inference.api.access import InferenceEndpoint
from inference.api.requests import RequestCancel
from inference.generation import not_kept, readable, refuse_anothers
from inference.places import place
from kit.edge import Json
from kit.threads import in_thread
from tenants.auth import Caller
from tenants.models import Priority

_PRIORITIES = {each.value: each.name.lower() for each in Priority}


class JobState(BaseModel):
    """A request on its way, and for an hour (in background a day) after its end; then the history
    says how it ended."""

    job_id: UUID
    state: str = Field(description="waiting, running, finished, cancelled or failed.")
    model: str
    priority: Literal["high", "normal", "low"] | None
    position: int | None = Field(
        description="In line, from 1, while it waits: more urgent ones go before, then "
        "organizations take turns."
    )
    estimated_start_at: datetime | None = Field(
        description="By the pace of the line now; null where that is not known."
    )
    tokens: int = Field(description="Of the answer, so far.")
    attempts: int = Field(description="How many workers have begun it.")
    created_at: datetime
    started_at: datetime | None
    first_token_at: datetime | None
    ended_at: datetime | None
    url: str = Field(description="Where its answer is.")


class OneJob(InferenceEndpoint):
    """A request's state and place."""

    runs_models = False

    @extend_schema(
        operation_id="jobs_retrieve",
        summary="Where a request is",
        tags=["Requests"],
        responses=JobState,
    )
    async def get(self, request: HttpRequest, identifier: UUID) -> HttpResponseBase:
        """Its state, its place in line, and when its turn may come."""
        return Json(await job(self.caller, identifier))


class JobCancel(RequestCancel):
    """Stops it."""

    @extend_schema(
        operation_id="jobs_cancel",
        summary="Stop a job",
        tags=["Requests"],
        request=None,
        responses={200: OpenApiTypes.OBJECT},
    )
    async def post(self, request: HttpRequest, identifier: UUID) -> HttpResponseBase:
        """As /api/v1/requests/{id}/cancel."""
        return await super().post(request, identifier)


async def job(caller: Caller, identifier: UUID, *, version: int = 1) -> dict[str, Any]:
    """A request as a `JobState`: as it stands, or as the history has it. Raises `NotKept`,
    `NotKeptAnyMore`."""
    now, organization = datetime.now(UTC), caller.organization
    found = await place(request=identifier, organization=organization, now=now)
    known: dict[str, Any]
    if found is not None:
        if caller.models:
            await readable(caller, identifier)
        known = {
            "state": found.state,
            "model": found.model,
            "priority": _PRIORITIES[found.priority],
            "position": found.line,
            "estimated_start_at": found.starts_at,
            "tokens": found.tokens,
            "attempts": found.attempts,
            "created_at": found.created_at,
            "started_at": found.started_at,
            "first_token_at": found.first_token_at,
            "ended_at": found.ended_at,
        }
    else:
        row = await in_thread(history.row, caller.schema, identifier)
        if row is None:
            raise await not_kept(caller, identifier)
        refuse_anothers(caller, identifier, model=row.model, key=row.key)
        known = {
            "state": row.state,
            "model": row.model,
            "priority": None,
            "position": None,
            "estimated_start_at": None,
            "tokens": row.completion_tokens,
            "attempts": row.attempts,
            "created_at": row.created_at,
            "started_at": row.started_at,
            "first_token_at": row.first_token_at,
            "ended_at": row.finished_at,
        }
    what = "requests" if version == 1 else "jobs"
    url = f"/api/v{version}/{what}/{identifier}"
    return JobState.model_validate({"job_id": identifier, **known, "url": url}).model_dump()
