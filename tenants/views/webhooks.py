"""/o/<slug>/webhooks: who is told of what happens, and what they were told."""

from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

from django import forms
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from tenants.roles import Action
from tenants.views.access import OrganizationPage
from tenants.webhooks import hooks
from tenants.webhooks.events import Kind
from tenants.webhooks.models import Webhook

_SHOWN = 100
_MANAGE: Mapping[str, Action] = dict.fromkeys(("GET", "POST"), Action.MANAGE_WEBHOOKS)


class WebhookForm(forms.Form):
    """An address, and what it is told."""

    url = forms.CharField(
        label="Address",
        max_length=2048,
        widget=forms.URLInput(attrs={"placeholder": "https://example.com/hooks/ai"}),
    )
    events = forms.MultipleChoiceField(
        choices=[(kind.value, kind.value) for kind in Kind], widget=forms.CheckboxSelectMultiple
    )


class WebhooksPage(OrganizationPage):
    """What the pages of webhooks share."""

    here = "webhooks"
    actions: ClassVar[Mapping[str, Action]] = _MANAGE

    def listing(self, form: WebhookForm, **more: Any) -> HttpResponse:
        """The page, with a new secret where there is one."""
        rows = hooks.listed(self.caller.organization)
        context = {"webhooks": rows, "form": form, "has_room": len(rows) < hooks.MOST, **more}
        response = self.page("portal/webhooks.html", context)
        response["Cache-Control"] = "no-store"
        return response

    def told(self, webhook: Webhook, form: WebhookForm) -> HttpResponse:
        """One of them, and what it was told."""
        rows = hooks.deliveries(self.caller.organization, webhook.pk, most=_SHOWN)
        context = {"webhook": webhook, "deliveries": rows, "form": form, "shown": _SHOWN}
        return self.page("portal/webhook.html", context)

    def there(self, identifier: UUID) -> str:
        """The page of one of them."""
        return reverse("webhook", args=[self.organization.slug, identifier])


class Webhooks(WebhooksPage):
    """All of them, and a form for another."""

    def get(self, request: HttpRequest) -> HttpResponse:
        """The oldest first."""
        return self.listing(WebhookForm())

    def post(self, request: HttpRequest) -> HttpResponse:
        """A new one, whose secret is on this page alone."""
        form = WebhookForm(request.POST)
        if not form.is_valid():
            return self.listing(form)
        made, secret = hooks.make(
            self.caller.organization,
            url=form.cleaned_data["url"],
            kinds=form.cleaned_data["events"],
            by=self.actor,
            now=self.now,
        )
        return self.listing(WebhookForm(), made=made, secret=secret)


class OneWebhook(WebhooksPage):
    """One of them: what it was told, and a form to change it."""

    def get(self, request: HttpRequest, identifier: UUID) -> HttpResponse:
        """The latest first."""
        found = hooks.one(self.caller.organization, identifier)
        return self.told(found, WebhookForm(initial={"url": found.url, "events": found.kinds}))

    def post(self, request: HttpRequest, identifier: UUID) -> HttpResponse:
        """Another address, other events; or with `enabled` alone, no more, or again."""
        found = hooks.one(self.caller.organization, identifier)
        if "enabled" in request.POST:
            fields: dict[str, Any] = {"enabled": request.POST["enabled"] == "1"}
        else:
            form = WebhookForm(request.POST)
            if not form.is_valid():
                return self.told(found, form)
            fields = {"url": form.cleaned_data["url"], "kinds": form.cleaned_data["events"]}
        hooks.change(self.caller.organization, identifier, fields, by=self.actor, now=self.now)
        return self.done("The webhook is changed.")

    def back(self) -> str:
        """This page."""
        return self.there(self.kwargs["identifier"])


class WebhookRotation(WebhooksPage):
    """A new secret."""

    def post(self, request: HttpRequest, identifier: UUID) -> HttpResponse:
        """It is on this page alone; the old one signs beside it for a day."""
        found, secret = hooks.rotate(
            self.caller.organization, identifier, by=self.actor, now=self.now
        )
        return self.listing(WebhookForm(), made=found, secret=secret, rotated=True)


class WebhookRemoval(WebhooksPage):
    """The end of one."""

    def post(self, request: HttpRequest, identifier: UUID) -> HttpResponse:
        """With what it was told."""
        hooks.remove(self.caller.organization, identifier, by=self.actor, now=self.now)
        return self.done("The webhook is deleted.")


class Replay(WebhooksPage):
    """An event, told again."""

    def post(self, request: HttpRequest, identifier: UUID, event: UUID) -> HttpResponse:
        """Soon, under the same id."""
        hooks.replay(self.caller.organization, identifier, event, now=self.now)
        return self.done("It is told again within seconds.")

    def back(self) -> str:
        """Where it was told."""
        return self.there(self.kwargs["identifier"])
