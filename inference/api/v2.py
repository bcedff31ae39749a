"""/api/v2 of inference: the same requests as jobs first, every answer in one envelope.

Adapters alone: what they do is version 1's, in the modules it is in.
"""

import asyncio
import re
from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponseBase
from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import BaseModel

from inference.api.access import InferenceEndpoint, headers, may_fall_back
from inference.api.forms import InferForm
from inference.api.infer import bill, prompt_wish, told
from inference.api.jobs import JobState, job
from inference.api.models import Catalog, Described
from inference.api.requests import AFTER, STREAMED, RequestCancel, RequestStream
from inference.catalog.offers import offer, offers
from inference.fleet import fleet
from inference.generation import Generation, reading
from inference.jobs import Leaving
from kit.answers import AnswerMeta, Enveloped, Paging
from kit.edge import body
from kit.errors import Invalid, Refused

LONGEST_WAIT = 60
_WAIT = re.compile(r"(?:^|[,;\s])wait=([0-9]{1,3})(?=$|[,;\s])")


class JobResult(BaseModel):
    """An answer, or several."""

    text: str
    texts: list[str] | None = None
    finish_reason: str
    finish_reasons: list[str] | None = None
    cache: str | None = None
    usage: dict[str, int]
    cost: dict[str, Any]


class JobWithResult(JobState):
    """A request, and its answer once it is whole and as long as it is kept."""

    result: JobResult | None


class JobAnswer(BaseModel):
    """A job in its envelope."""

    data: JobWithResult
    meta: AnswerMeta


class ModelsAnswer(BaseModel):
    """Models in their envelope."""

    data: list[dict[str, Any]]
    page: Paging
    meta: AnswerMeta


class ModelAnswer(BaseModel):
    """A model in its envelope."""

    data: dict[str, Any]
    meta: AnswerMeta


class JobsOfPrompts(InferenceEndpoint):
    """Takes prompts."""

    @extend_schema(
        operation_id="v2_infer",
        summary="Answer a prompt as a job",
        tags=["Version 2"],
        description=f"202 and the job at once; with `Prefer: wait=10` (RFC 7240; at most "
        f"{LONGEST_WAIT}) 200 and its result, if it ends by then.",
        parameters=[
            OpenApiParameter(
                "Prefer", str, OpenApiParameter.HEADER, description="`wait=` and seconds."
            )
        ],
        request=InferForm,
        responses={200: JobAnswer, 202: JobAnswer},
    )
    async def post(self, request: HttpRequest) -> HttpResponseBase:
        """A job, with its result if that was waited for."""
        form, wait = await body(request, InferForm), _wait(request)
        wish = await prompt_wish(
            self.caller,
            form,
            endpoint="infer",
            label=request.label,  # type: ignore[attr-defined]
            replace_it=may_fall_back(request),
        )
        made = await self.start(request, wish)
        result, said = None, {}
        if wait:
            entered = reading(caller=self.caller, request=made, leaving=Leaving.CONTINUE)
            async with entered as run:
                result = await _within(run, wait, count=form.n)
                said = dict(headers(run, wish)) if result else {}
        said |= {"Preference-Applied": f"wait={wait}"} if wait else {}
        said.pop("Idempotent-Replayed", None)
        data = {**await job(self.caller, made, version=2), "result": result}
        where = {"Location": f"/api/v2/jobs/{made}"}
        return Enveloped(request, data, status=200 if result else 202, headers={**said, **where})


class OneJobWithResult(InferenceEndpoint):
    """A job."""

    runs_models = False

    @extend_schema(
        operation_id="v2_jobs_retrieve",
        summary="A job, and its result",
        tags=["Version 2"],
        responses=JobAnswer,
    )
    async def get(self, request: HttpRequest, identifier: UUID) -> HttpResponseBase:
        """Its state, and its answer once it is whole."""
        data = await job(self.caller, identifier, version=2)
        result = None
        if data["state"] == "finished":
            try:
                async with reading(
                    caller=self.caller, request=identifier, leaving=Leaving.CONTINUE
                ) as run:
                    result = await _within(run, 5, count=1)
            except Refused:
                result = None  # it is not kept any more
        return Enveloped(request, {**data, "result": result})


class JobCancelled(RequestCancel):
    """Stops a job."""

    @extend_schema(
        operation_id="v2_jobs_cancel",
        summary="Stop a job",
        tags=["Version 2"],
        request=None,
        responses=JobAnswer,
    )
    async def post(self, request: HttpRequest, identifier: UUID) -> HttpResponseBase:
        """Within a step; what was delivered until then is billed."""
        await super().post(request, identifier)
        data = await job(self.caller, identifier, version=2)
        return Enveloped(request, {**data, "result": None})


class JobStream(RequestStream):
    """A job's events."""

    @extend_schema(
        operation_id="v2_jobs_stream",
        summary="A job's events, from where a reader was",
        tags=["Version 2"],
        parameters=AFTER,
        responses=STREAMED,
    )
    async def get(self, request: HttpRequest, identifier: UUID) -> HttpResponseBase:
        """As version 1's: a stream has no envelope."""
        return await super().get(request, identifier)


class EnvelopedModels(Catalog):
    """What the platform knows of every model."""

    @extend_schema(
        operation_id="v2_models",
        summary="The models, and how they are",
        tags=["Version 2"],
        responses=ModelsAnswer,
    )
    async def get(self, request: HttpRequest) -> HttpResponseBase:
        """Those this key may use."""
        found, now = await offers(caller=self.caller), await fleet()
        return Enveloped(
            request, [await self.info(each, now) for each in found], page=Paging(next=None)
        )


class EnvelopedModel(Described):
    """What the platform knows of a model."""

    @extend_schema(
        operation_id="v2_model",
        summary="A model, and how it is",
        tags=["Version 2"],
        parameters=[],
        responses=ModelAnswer,
    )
    async def get(self, request: HttpRequest, name: str) -> HttpResponseBase:
        """By its name, or an alias."""
        found = await offer(name, caller=self.caller)
        return Enveloped(request, await self.info(found, await fleet()))


async def _within(run: Generation, seconds: int, *, count: int) -> dict[str, Any] | None:
    """The answer, if it is whole within so many seconds. Raises what `Generation.whole` does."""
    try:
        async with asyncio.timeout(seconds):
            answer = await run.whole(count=count)
    except TimeoutError:
        return None
    return {**told(answer), **bill(answer.ended)}


def _wait(request: HttpRequest) -> int:
    """Seconds of `Prefer: wait=`; 0 where it says nothing. Raises `Invalid`."""
    found = _WAIT.search(request.headers.get("Prefer", ""))
    wait = int(found[1]) if found else 0
    if wait > LONGEST_WAIT:
        raise Invalid(f"Prefer: wait may be {LONGEST_WAIT} s at most, not {wait}.", param="Prefer")
    return wait
