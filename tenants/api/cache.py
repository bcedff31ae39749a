"""/api/v1/cache: whether an organization's answers are given again, and forgetting them."""

from typing import Any, Literal

from django.http import HttpRequest
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from pydantic import BaseModel, ConfigDict, Field

from kit.edge import Json, body
from kit.threads import in_thread
from tenants import organizations
from tenants.api.access import OrganizationEndpoint, actor
from tenants.models import Caching, Organization
from tenants.roles import Action


class CacheForm(BaseModel):
    """`exact`: an answer is given again where prompt, model and parameters are the same; `off`:
    never, but where a request says `X-Cache: exact`; `plan`: as the organization's plan says."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["off", "exact", "plan"]
    seconds: int = Field(3600, ge=10, le=30 * 86_400, description="How long an answer is kept.")


class CacheSettings(BaseModel):
    """What was chosen, and what holds."""

    mode: Literal["off", "exact", "plan"]
    effective: Literal["off", "exact"]
    seconds: int


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
        "refresh or off.",
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
            organizations.cache_answers(organization, mode, seconds=form.seconds, now=now, by=by)
            return _settings(self.caller.organization)

        return Json(await in_thread(choose))

    @extend_schema(
        operation_id="cache_empty",
        tags=["Organization"],
        summary="Forget cached answers",
        description="All of the organization's; within a second none of them is given again.",
        responses={200: CacheSettings},
    )
    async def delete(self, request: HttpRequest) -> Json:
        """All of them."""
        now = timezone.now()

        def empty() -> dict[str, Any]:
            organization = Organization.objects.get(pk=self.caller.organization)
            organizations.forget_answers(organization, now=now, by=actor(self.caller))
            return _settings(self.caller.organization)

        return Json(await in_thread(empty))


def _settings(organization: int) -> dict[str, Any]:
    found = Organization.objects.select_related("plan").get(pk=organization)
    plans = found.plan.caching if found.plan else Caching.OFF
    return {
        "mode": found.caching or "plan",
        "effective": found.caching or plans,
        "seconds": found.cache_seconds,
    }
