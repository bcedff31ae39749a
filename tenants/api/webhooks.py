"""/api/v1/webhooks: who is told of what happens, and what they were told."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from django.http import HttpRequest
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from pydantic import BaseModel, ConfigDict, Field

from kit.edge import Json, body
from kit.threads import in_thread
from tenants.api.access import OrganizationEndpoint, actor
from tenants.roles import Action
from tenants.webhooks import hooks
from tenants.webhooks.events import Kind
from tenants.webhooks.models import Delivery, Webhook

_SHOWN = 100
_TAGS = ["Webhooks"]
Kinds = Annotated[list[Kind], Field(min_length=1, max_length=len(Kind))]
Url = Annotated[str, Field(min_length=1, max_length=2048)]


class WebhookForm(BaseModel):
    """An address, and what it is told."""

    model_config = ConfigDict(extra="forbid")

    url: Url = Field(examples=["https://example.com/hooks/ai"])
    events: Kinds


class WebhookChange(BaseModel):
    """What is left out stays."""

    model_config = ConfigDict(extra="forbid")

    url: Url | None = None
    events: Kinds | None = None
    enabled: bool | None = None


class WebhookEntry(BaseModel):
    """A webhook; `secret` is in the answers of making and rotating alone."""

    id: UUID
    url: str
    events: list[str]
    enabled: bool
    created_at: datetime
    secret: str | None = None


class WebhookEntries(BaseModel):
    """The oldest first."""

    data: list[WebhookEntry]


class Deleted(BaseModel):
    """A webhook that is no more."""

    id: UUID
    deleted: bool = True


class DeliveryEntry(BaseModel):
    """An event on its way: waiting, delivered or failed."""

    event: UUID
    type: str
    state: str
    tries: int
    status: int | None
    error: str
    due_at: datetime
    ended_at: datetime | None


class DeliveryEntries(BaseModel):
    """The latest first."""

    data: list[DeliveryEntry]


class Webhooks(OrganizationEndpoint):
    """An organization's webhooks."""

    actions = {"GET": Action.MANAGE_WEBHOOKS, "POST": Action.MANAGE_WEBHOOKS}  # noqa: RUF012

    @extend_schema(
        operation_id="webhooks", tags=_TAGS, summary="List webhooks", responses=WebhookEntries
    )
    async def get(self, request: HttpRequest) -> Json:
        """All of them."""
        found = await in_thread(hooks.listed, self.caller.organization)
        return Json({"data": [_shown(each) for each in found]})

    @extend_schema(
        operation_id="webhooks_create",
        tags=_TAGS,
        summary="Make a webhook",
        request=WebhookForm,
        responses={201: WebhookEntry},
    )
    async def post(self, request: HttpRequest) -> Json:
        """Its secret is shown this once."""
        form, now = await body(request, WebhookForm), timezone.now()

        def make() -> tuple[Webhook, str]:
            kinds = [each.value for each in form.events]
            by = actor(self.caller)
            return hooks.make(self.caller.organization, url=form.url, kinds=kinds, by=by, now=now)

        made, secret = await in_thread(make)
        return Json({**_shown(made), "secret": secret}, status=201)


class OneWebhook(OrganizationEndpoint):
    """A webhook."""

    actions = dict.fromkeys(("GET", "PATCH", "DELETE"), Action.MANAGE_WEBHOOKS)

    @extend_schema(
        operation_id="webhooks_retrieve",
        tags=_TAGS,
        summary="Describe a webhook",
        responses=WebhookEntry,
    )
    async def get(self, request: HttpRequest, identifier: UUID) -> Json:
        """As it is."""
        return Json(_shown(await in_thread(hooks.one, self.caller.organization, identifier)))

    @extend_schema(
        operation_id="webhooks_change",
        tags=_TAGS,
        summary="Change a webhook",
        request=WebhookChange,
        responses=WebhookEntry,
    )
    async def patch(self, request: HttpRequest, identifier: UUID) -> Json:
        """What is sent."""
        form, now = await body(request, WebhookChange), timezone.now()
        fields: dict[str, Any] = form.model_dump(exclude_none=True)
        if form.events is not None:
            fields["kinds"] = sorted({each.value for each in form.events})
            del fields["events"]

        def change() -> Webhook:
            by = actor(self.caller)
            return hooks.change(self.caller.organization, identifier, fields, by=by, now=now)

        return Json(_shown(await in_thread(change)))

    @extend_schema(
        operation_id="webhooks_delete",
        tags=_TAGS,
        summary="Delete a webhook",
        responses={200: Deleted},
    )
    async def delete(self, request: HttpRequest, identifier: UUID) -> Json:
        """And what it was told."""
        now = timezone.now()

        def remove() -> None:
            hooks.remove(self.caller.organization, identifier, by=actor(self.caller), now=now)

        await in_thread(remove)
        return Json(Deleted(id=identifier).model_dump(mode="json"))


class WebhookRotation(OrganizationEndpoint):
    """A webhook's secret."""

    actions = {"POST": Action.MANAGE_WEBHOOKS}  # noqa: RUF012

    @extend_schema(
        operation_id="webhooks_rotate",
        tags=_TAGS,
        summary="Give a webhook a new secret",
        description="The old one signs beside it for a day.",
        request=None,
        responses=WebhookEntry,
    )
    async def post(self, request: HttpRequest, identifier: UUID) -> Json:
        """It is shown this once."""
        now = timezone.now()

        def rotate() -> tuple[Webhook, str]:
            by = actor(self.caller)
            return hooks.rotate(self.caller.organization, identifier, by=by, now=now)

        found, secret = await in_thread(rotate)
        return Json({**_shown(found), "secret": secret})


class Deliveries(OrganizationEndpoint):
    """What a webhook was told."""

    actions = {"GET": Action.MANAGE_WEBHOOKS}  # noqa: RUF012

    @extend_schema(
        operation_id="webhooks_deliveries",
        tags=_TAGS,
        summary="What a webhook was told",
        description=f"The latest {_SHOWN} of the last 30 days.",
        responses=DeliveryEntries,
    )
    async def get(self, request: HttpRequest, identifier: UUID) -> Json:
        """And how that went."""
        found = await in_thread(hooks.deliveries, self.caller.organization, identifier, most=_SHOWN)
        return Json({"data": [_delivery(each) for each in found]})


class Replay(OrganizationEndpoint):
    """An event once more."""

    actions = {"POST": Action.MANAGE_WEBHOOKS}  # noqa: RUF012

    @extend_schema(
        operation_id="webhooks_replay",
        tags=_TAGS,
        summary="Tell a webhook of an event again",
        request=None,
        responses=DeliveryEntry,
    )
    async def post(self, request: HttpRequest, identifier: UUID, event: UUID) -> Json:
        """Under the same `webhook-id`, within seconds."""
        found = await in_thread(
            hooks.replay, self.caller.organization, identifier, event, now=timezone.now()
        )
        return Json(_delivery(found))


def _shown(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": webhook.pk,
        "url": webhook.url,
        "events": webhook.kinds,
        "enabled": webhook.enabled,
        "created_at": webhook.created_at,
    }


def _delivery(delivery: Delivery) -> dict[str, Any]:
    fields = ("state", "tries", "status", "error", "due_at", "ended_at")
    return {
        "event": delivery.event_id,
        "type": delivery.event.kind,
        **{name: getattr(delivery, name) for name in fields},
    }
