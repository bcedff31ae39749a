"""/o/<slug>/audit: who changed what, to look through and to take away."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, ClassVar
from urllib.parse import urlencode

import orjson
from django import forms
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse

from tenants import trail
from tenants.api.audit import exported
from tenants.roles import Action
from tenants.trail import Filter
from tenants.views.access import OrganizationPage

_SHOWN = 50
_LONGEST = 1_000
"""Of a value before or after, on the page; an export has it whole."""
_MISSING = object()


def _instant(label: str) -> forms.DateTimeField:
    widget = forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M")
    return forms.DateTimeField(label=label, required=False, widget=widget)


def _text(label: str, most: int, placeholder: str) -> forms.CharField:
    widget = forms.TextInput(attrs={"placeholder": placeholder})
    return forms.CharField(label=label, required=False, max_length=most, widget=widget)


class FilterForm(forms.Form):
    """Which entries, by the names that REST has for it."""

    q = _text("Search", 254, "a part of the action, person, address or target")
    action = _text("Action", 64, "key. or key.revoked")
    actor = _text("Actor", 64, "user:7 or system")
    since = _instant("From (UTC)")
    until = _instant("To (UTC)")
    before = forms.IntegerField(required=False, min_value=1, max_value=2**62)


class AuditPage(OrganizationPage):
    """What the pages of the audit log share."""

    here = "audit"
    actions: ClassVar[Mapping[str, Action]] = {"GET": Action.READ_AUDIT}


class AuditLog(AuditPage):
    """A page of entries, newest first, and a form that says which."""

    def get(self, request: HttpRequest) -> HttpResponse:
        """Those that pass the form; none, if it cannot be read."""
        form = FilterForm(request.GET)
        if not form.is_valid():
            response = self.page("portal/audit.html", {"form": form})
            response.status_code = 400
            return response
        asked = {name: value for name, value in form.cleaned_data.items() if value}
        before = asked.pop("before", None)
        only, whose = Filter(**asked), self.caller.organization
        entries, older = trail.page(whose, only, before=before, most=_SHOWN)
        context = {"form": form, "entries": [_shown(each) for each in entries]}
        context |= {"is_filtered": bool(asked), "query": _query(asked)}
        if older is not None:
            context["older"] = _query({**asked, "before": older})
        if before is not None:
            newer = trail.newer(whose, only, before=before, most=_SHOWN)
            context["newer"] = _query({**asked, "before": newer} if newer else asked)
        return self.page("portal/audit.html", context)


class AuditExport(AuditPage):
    """What passes the filters, as a file."""

    def get(self, request: HttpRequest) -> StreamingHttpResponse:
        """As REST's, for whoever is logged in."""
        return exported(request, self.caller, now=self.now)


def _query(asked: Mapping[str, Any]) -> str:
    texts = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asked.items()
    }
    return urlencode(texts)


def _shown(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    changes = list(_changes(entry["before"], entry["after"]))
    shown = {"at": datetime.fromisoformat(entry["at"]), "changes": changes}
    return {**entry, **shown, "address_parts": entry["address"].split(":")}


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for name in {**before, **after}:
        was, became = before.get(name, _MISSING), after.get(name, _MISSING)
        yield {"name": name, "was": _value(was), "became": _value(became)}


def _value(value: Any) -> str:
    if value is _MISSING:
        return ""
    text = value if isinstance(value, str) and value else orjson.dumps(value).decode()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
