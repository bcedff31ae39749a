"""/o/<slug>/settings: an organization's name, and its end."""

from collections.abc import Mapping
from typing import ClassVar

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from kit.errors import Invalid
from tenants import organizations
from tenants.roles import Action
from tenants.views.access import OrganizationPage


class SettingsPage(OrganizationPage):
    """What these pages share; they are there for the suspended too."""

    here = "settings"
    open_while_suspended = True


class Settings(SettingsPage):
    """What it is called, and what may be done with it."""

    actions: ClassVar[Mapping[str, Action]] = {"GET": Action.READ_MEMBERS, "POST": Action.RENAME}

    def get(self, request: HttpRequest) -> HttpResponse:
        """As far as one's role goes."""
        context = {
            "may_rename": self.caller.may(Action.RENAME),
            "may_delete": self.caller.may(Action.DELETE),
            "grace": settings.DELETION_GRACE_DAYS,
        }
        return self.page("portal/settings.html", context)

    def post(self, request: HttpRequest) -> HttpResponse:
        """Another name."""
        name = request.POST.get("name", "").strip()
        organizations.rename(self.organization, name=name, now=self.now, by=self.actor)
        return self.done("The name is changed.")


class Deletion(SettingsPage):
    """Shut out at once, erased after the grace period."""

    actions: ClassVar[Mapping[str, Action]] = {"POST": Action.DELETE}

    def post(self, request: HttpRequest) -> HttpResponse:
        """Once its slug is said."""
        if request.POST.get("slug") != self.organization.slug:
            raise Invalid(f"Write {self.organization.slug!r} to delete it.", param="slug")
        organizations.ask_deletion(self.organization, now=self.now, by=self.actor)
        return self.done("The organization is shut, and will be erased.")


class Restoration(SettingsPage):
    """Within the grace period."""

    actions: ClassVar[Mapping[str, Action]] = {"POST": Action.DELETE}

    def post(self, request: HttpRequest) -> HttpResponse:
        """As it was."""
        organizations.restore(self.organization, now=self.now, by=self.actor)
        return self.done("The organization is restored.")
