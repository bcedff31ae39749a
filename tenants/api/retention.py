"""GET and PUT /api/v1/retention: what is kept of what an organization asks and is answered."""

from django.http import HttpRequest
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from pydantic import BaseModel, ConfigDict, Field, model_validator

from kit.edge import Json, body
from kit.threads import in_thread
from tenants import organizations
from tenants.api.access import OrganizationEndpoint, actor
from tenants.models import Organization, Retention
from tenants.roles import Action


class Kept(BaseModel):
    """`nothing`: prompts go when the answer ends, the answer 5 minutes later; `answers`: answers
    can be read for an hour (a day in background or under an Idempotency-Key); `texts`: prompts and
    answers stay in the history for `days`, sealed. Figures are kept whatever it is."""

    model_config = ConfigDict(extra="forbid")

    keeps: Retention
    days: int = Field(30, ge=1, le=3650)
    searchable: bool = Field(
        False,
        description="Whether texts can be found by their words (GET /api/v1/requests?q=…), for "
        "which keyed marks of words stand beside them. With `texts` alone.",
    )

    @model_validator(mode="after")
    def _searches_texts_alone(self) -> "Kept":
        if self.searchable and self.keeps != Retention.TEXTS:
            raise ValueError("searchable needs keeps to be texts; nothing else can be searched")
        return self


class RetentionEndpoint(OrganizationEndpoint):
    """What is kept, and choosing it."""

    actions = {"GET": Action.READ_PRIVACY, "PUT": Action.MANAGE_PRIVACY}  # noqa: RUF012

    @extend_schema(
        operation_id="retention",
        tags=["Organization"],
        summary="See what is kept of prompts and answers",
        responses=Kept,
    )
    async def get(self, request: HttpRequest) -> Json:
        """As chosen."""
        return Json(await in_thread(_kept, self.caller.organization))

    @extend_schema(
        operation_id="retention_choose",
        tags=["Organization"],
        summary="Choose what is kept of prompts and answers",
        description="Within a second, for what is sent then; texts kept so far go by night.",
        request=Kept,
        responses=Kept,
    )
    async def put(self, request: HttpRequest) -> Json:
        """From now on."""
        form, now = await body(request, Kept), timezone.now()

        def choose() -> None:
            organization = Organization.objects.get(pk=self.caller.organization)
            organizations.keep(
                organization,
                form.keeps,
                days=form.days,
                searchable=form.searchable,
                now=now,
                by=actor(self.caller),
            )

        await in_thread(choose)
        return Json(await in_thread(_kept, self.caller.organization))


def _kept(organization: int) -> dict[str, object]:
    found = Organization.objects.get(pk=organization)
    return {
        "keeps": found.retention,
        "days": found.kept_days,
        "searchable": found.texts_searchable,
    }
