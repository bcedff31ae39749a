"""/o/<slug>/settings: an organization's name, and its end."""

from collections.abc import Mapping
from typing import ClassVar

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from kit.errors import Invalid
from tenants import organizations, saml, single_sign_on
from tenants.accounts import factors
from tenants.models import Role
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
            "may_set_up": self.caller.may(Action.SET_UP_LOG_IN),
            "sso": single_sign_on.of(self.organization.pk),
            "roles": [each for each in Role.choices if each[0] != Role.OWNER],
            "callback": request.build_absolute_uri(
                reverse("openid_connect_callback", args=[self.organization.slug])
            ),
            "log_in": request.build_absolute_uri(
                reverse("sso-onward", args=[self.organization.slug])
            ),
            "saml": {
                name: request.build_absolute_uri(
                    reverse(f"saml_{name}", args=[self.organization.slug])
                )
                for name in ("acs", "metadata")
            },
        }
        return self.page("portal/settings.html", context)

    def post(self, request: HttpRequest) -> HttpResponse:
        """Another name."""
        name = request.POST.get("name", "").strip()
        organizations.rename(self.organization, name=name, now=self.now, by=self.actor)
        return self.done("The name is changed.")


class SingleSignOnSetting(SettingsPage):
    """The organization's own identity provider."""

    actions: ClassVar[Mapping[str, Action]] = {"POST": Action.SET_UP_LOG_IN}

    def post(self, request: HttpRequest) -> HttpResponse:
        """Set it up, or take it away."""
        if "remove" in request.POST:
            single_sign_on.take_away(self.organization, now=self.now, by=self.actor)
            return self.done("Single sign-on is taken away.")
        role = request.POST.get("role", "")
        if role not in Role.values:
            raise Invalid("role: choose one of the roles.", param="role")
        if "metadata" in request.POST:
            single_sign_on.set_up_saml(
                self.organization,
                metadata=saml.metadata(request.POST["metadata"].strip()),
                role=Role(role),
                now=self.now,
                by=self.actor,
            )
            return self.done("Single sign-on is set up; an operator confirms your domains.")
        single_sign_on.set_up(
            self.organization,
            issuer=request.POST.get("issuer", "").strip(),
            client_id=request.POST.get("client_id", "").strip(),
            client_secret=request.POST.get("client_secret", ""),
            role=Role(role),
            now=self.now,
            by=self.actor,
        )
        return self.done("Single sign-on is set up; an operator confirms your domains.")


class TwoFactors(SettingsPage):
    """Whether members need a second factor."""

    actions: ClassVar[Mapping[str, Action]] = {"POST": Action.SET_UP_LOG_IN}

    def post(self, request: HttpRequest) -> HttpResponse:
        """From now on, or no more."""
        required = request.POST.get("required") == "1"
        organizations.require_two_factors(
            self.organization,
            required=required,
            is_set=factors.are_set(self.person),
            now=self.now,
            by=self.actor,
        )
        return self.done(
            "Members now need two factors." if required else "One factor is enough again."
        )


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
