"""/o/<slug>/keys: an organization's API keys in the portal."""

from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Any, ClassVar

from django import forms
from django.http import HttpRequest, HttpResponse

from kit.errors import Invalid
from tenants import keyring
from tenants.keyring import Manager
from tenants.models import ApiKey, Environment, Scope, every_scope
from tenants.roles import Action
from tenants.views.access import OrganizationPage

_SHOWN = 200
_GRACES = {"0": "at once", "3600": "in an hour", "86400": "in a day", "604800": "in a week"}


class KeyForm(forms.Form):
    """What a new key may do."""

    name = forms.CharField(max_length=120)
    environment = forms.ChoiceField(choices=Environment.choices)
    scopes = forms.MultipleChoiceField(
        choices=Scope.choices, widget=forms.CheckboxSelectMultiple, initial=every_scope
    )
    expires_on = forms.DateField(
        required=False,
        label="Last day",
        help_text="Empty: it does not expire.",
        widget=forms.DateInput(attrs={"type": "date"}),
    )


class RotationForm(forms.Form):
    """When the old key ends."""

    grace = forms.TypedChoiceField(choices=list(_GRACES.items()), coerce=int)


class KeysPage(OrganizationPage):
    """What the pages of keys share."""

    here = "keys"

    @property
    def manager(self) -> Manager:
        """The person, as the keyring knows them."""
        return Manager(self.caller, self.actor)

    def listing(self, form: KeyForm, **more: Any) -> HttpResponse:
        """The page, with a new key's text where there is one."""
        rows = keyring.listed(self.caller.organization, after=None, most=_SHOWN)
        context = {
            "keys": [self._row(key) for key in rows],
            "form": form,
            "graces": _GRACES,
            "may_make": self.caller.may(Action.MAKE_KEYS),
            **more,
        }
        response = self.page("portal/keys.html", context)
        response["Cache-Control"] = "no-store"
        return response

    def _row(self, key: ApiKey) -> Mapping[str, Any]:
        own = key.created_by_id == self.person.pk
        return {
            "key": key,
            "prefix": f"aip_{key.environment}_{key.pk}_…",
            "state": _state(key, self.now),
            "manage": own or self.caller.may(Action.MANAGE_KEYS),
        }


class Keys(KeysPage):
    """All of them, and a form for another."""

    actions: ClassVar[Mapping[str, Action]] = {"GET": Action.READ_KEYS, "POST": Action.MAKE_KEYS}

    def get(self, request: HttpRequest) -> HttpResponse:
        """Newest first."""
        return self.listing(KeyForm())

    def post(self, request: HttpRequest) -> HttpResponse:
        """A new key, whose text is on this page alone."""
        form = KeyForm(request.POST)
        if not form.is_valid():
            return self.listing(form)
        fields = dict(form.cleaned_data)
        fields["expires_at"] = _end_of(fields.pop("expires_on"), self.now)
        key, text = keyring.make(self.manager, fields)
        return self.listing(KeyForm(), made=key, text=text)


class KeyRotation(KeysPage):
    """A new secret for an old key."""

    actions: ClassVar[Mapping[str, Action]] = {"POST": Action.MAKE_KEYS}

    def post(self, request: HttpRequest, identifier: str) -> HttpResponse:
        """The new key, whose text is on this page alone."""
        form = RotationForm(request.POST)
        if not form.is_valid():
            raise Invalid("grace: choose when the old key ends.", param="grace")
        grace = timedelta(seconds=form.cleaned_data["grace"])
        key, text = keyring.rotate(self.manager, identifier, grace=grace, now=self.now)
        return self.listing(KeyForm(), made=key, text=text)


class KeyRevocation(KeysPage):
    """The end of a key."""

    actions: ClassVar[Mapping[str, Action]] = {"POST": Action.MAKE_KEYS}

    def post(self, request: HttpRequest, identifier: str) -> HttpResponse:
        """For good."""
        key = keyring.revoke(self.manager, identifier, now=self.now)
        return self.done(f"The API key {key.name!r} is revoked.")


def _state(key: ApiKey, now: datetime) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.has_expired(now) else "active"


def _end_of(day: Any, now: datetime) -> datetime | None:
    if day is None:
        return None
    end = datetime.combine(day, time.max, UTC)
    if end <= now:
        raise Invalid("Last day: it is over; choose one to come.", param="expires_on")
    return end
