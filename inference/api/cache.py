"""/api/v1/cache: whether an organization's answers are given again, and forgetting them."""

from functools import partial
from typing import Any, Literal
from uuid import UUID

from django.http import HttpRequest
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import BaseModel, ConfigDict, Field

from inference import jobs
from inference.catalog.offers import named
from inference.generation import readable
from kit.edge import Json, body, check
from kit.errors import Invalid, Refused
from kit.threads import in_thread
from tenants import organizations
from tenants.api.access import OrganizationEndpoint, actor
from tenants.models import LEAST_ALIKE, Caching, Organization
from tenants.roles import Action


class CacheForm(BaseModel):
    """`exact`: an answer is given again where prompt, model and parameters are the same;
    `semantic`: also where all is the same but that what was asked last says it in other words;
    `off`: never, but where a request says so by `X-Cache`; `plan`: as the organization's plan says.
    """

    model_config = ConfigDict(extra="forbid")

    mode: Literal["off", "exact", "semantic", "plan"]
    seconds: int = Field(3600, ge=10, le=30 * 86_400, description="How long an answer is kept.")
    threshold: float | None = Field(
        None,
        ge=LEAST_ALIKE,
        le=1,
        description="`semantic`: how alike two questions' vectors are at least, as a cosine; 0.9 "
        "unless it was changed. Their words must say the same whatever it is.",
    )
    adaptive: bool | None = Field(
        None,
        strict=True,
        description="An answer is kept for an eighth of `seconds` at first, and each time that it "
        "is asked for again for twice its age, `seconds` at most.",
    )


class CacheSettings(BaseModel):
    """What was chosen, and what holds."""

    mode: Literal["off", "exact", "semantic", "plan"]
    effective: Literal["off", "exact", "semantic"]
    seconds: int
    effective_seconds: int = Field(
        description="What holds: no longer than the organization keeps answers at all (GET "
        "/api/v1/retention): a day, with `texts` its days, with `nothing` 0."
    )
    threshold: float
    adaptive: bool


class CacheEmptied(CacheSettings):
    """What holds still, and how many answers Redis had of those that went."""

    forgotten: int


class NotCached(Refused):
    """The cache has nothing to do with that request."""

    status, code = 404, "answer_not_cached"


class _Which(BaseModel):
    """Which answers are forgotten; all, where nothing is said."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, min_length=1, max_length=64)
    request: UUID | None = None
    key: str | None = Field(None, max_length=128, pattern=r"^[a-z0-9][a-z0-9._-]*:[0-9a-f]{24}$")


_WHICH = [
    OpenApiParameter("model", str, description="Those of this model, or of what it stands for."),
    OpenApiParameter(
        "request",
        OpenApiTypes.UUID,
        description="The one that this request made or was given, as long as its answer is kept.",
    ),
    OpenApiParameter("key", str, description="The one that has this X-Cache-Key."),
]


class Cache(OrganizationEndpoint):
    """The organization's cache of answers."""

    actions = {  # noqa: RUF012
        "GET": Action.MANAGE_CACHE,
        "PUT": Action.MANAGE_CACHE,
        "DELETE": Action.MANAGE_CACHE,
    }

    @extend_schema(
        operation_id="cache",
        tags=["Organization"],
        summary="See whether answers are cached",
        responses=CacheSettings,
    )
    async def get(self, request: HttpRequest) -> Json:
        """As chosen."""
        return Json(await in_thread(_settings, self.caller.organization))

    @extend_schema(
        operation_id="cache_choose",
        tags=["Organization"],
        summary="Choose whether answers are cached",
        description="Within a second. A request chooses otherwise by the header X-Cache: exact, "
        "semantic, refresh or off.",
        request=CacheForm,
        responses=CacheSettings,
    )
    async def put(self, request: HttpRequest) -> Json:
        """From now on."""
        form, now = await body(request, CacheForm), timezone.now()
        mode = "" if form.mode == "plan" else form.mode

        def choose() -> dict[str, Any]:
            organization = Organization.objects.get(pk=self.caller.organization)
            by = actor(self.caller)
            organizations.cache_answers(
                organization,
                mode,
                seconds=form.seconds,
                likeness=form.threshold,
                adaptive=form.adaptive,
                now=now,
                by=by,
            )
            return _settings(self.caller.organization)

        return Json(await in_thread(choose))

    @extend_schema(
        operation_id="cache_empty",
        tags=["Organization"],
        summary="Forget cached answers",
        description="All of the organization's, or a model's, or one; within a second none of them "
        "is given again.",
        parameters=_WHICH,
        responses={200: CacheEmptied},
    )
    async def delete(self, request: HttpRequest) -> Json:
        """All of them, a model's, or one."""
        which, now = check(request.GET.dict(), _Which), timezone.now()
        if len(several := list(which.model_dump(exclude_none=True))) > 1:
            said = " and ".join(several)
            raise Invalid(f"Say model, request or key, not {said} at once.", param=several[1])
        forgets: list[Any] = [organizations.forget_answers]
        if which.model is not None:
            models = [each.name for each in await named(which.model, caller=self.caller)]
            forgets = [partial(organizations.forget_answers, model=each) for each in models]
        elif which.request is not None:
            entry = await self._entry_of(which.request)
            forgets = [partial(organizations.forget_answer, entry=entry)]
        elif which.key is not None:
            if self.caller.models:
                await named(which.key.partition(":")[0], caller=self.caller)
            forgets = [partial(organizations.forget_answer, entry=which.key)]

        def forget() -> dict[str, Any]:
            organization = Organization.objects.get(pk=self.caller.organization)
            by = actor(self.caller)
            gone = sum(each(organization, now=now, by=by) for each in forgets)
            return {**_settings(self.caller.organization), "forgotten": gone}

        return Json(await in_thread(forget))

    async def _entry_of(self, request: UUID) -> str:
        """What the cache finds a request's answer by."""
        await readable(self.caller, request)
        _, entry = await jobs.found_in(request=request)
        if not entry:
            raise NotCached(
                f"The cache was not asked for the answer to {request}, or it has not ended; name a "
                "request that was answered with X-Cache, or its X-Cache-Key as key.",
                param="request",
            )
        return entry


def _settings(organization: int) -> dict[str, Any]:
    found = Organization.objects.select_related("plan").get(pk=organization)
    plans = found.plan.caching if found.plan else Caching.OFF
    return {
        "mode": found.caching or "plan",
        "effective": found.caching or plans,
        "seconds": found.cache_seconds,
        "effective_seconds": found.reuse_seconds,
        "threshold": found.cache_likeness,
        "adaptive": found.cache_adaptive,
    }
