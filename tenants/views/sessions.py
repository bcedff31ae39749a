"""/accounts/sessions/: where one is logged in, and ending it."""

from datetime import UTC, datetime

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.views import View

from tenants import logins
from tenants.accounts import acting, sessions
from tenants.devices import device
from tenants.views.access import PersonPage


class Acting(View):
    """An operator, who looked as somebody else."""

    def post(self, request: HttpRequest) -> HttpResponse:
        """Themselves again."""
        if request.user.is_authenticated:
            acting.stop(request, now=datetime.now(UTC))
        return HttpResponseRedirect(reverse("admin:index"))


class Sessions(PersonPage):
    """A person's open log-ins, of browsers and at the API."""

    def get(self, request: HttpRequest) -> HttpResponse:
        """The last seen first."""
        here = sessions.current(request)
        rows = [
            {"login": each, "device": device(each.agent), "is_here": str(each.pk) == here}
            for each in logins.open_of(self.person, now=self.now)
        ]
        return render(request, "portal/sessions.html", {"rows": rows})

    def post(self, request: HttpRequest) -> HttpResponse:
        """End one, or all others."""
        chosen = request.POST.get("end", "")
        if chosen == "others":
            here = sessions.current(request)
            ended = logins.end_others(self.person, but=here, now=self.now, by=self.actor)
            messages.success(request, f"Logged out elsewhere: {ended}.")
        else:
            logins.end_one(self.person, chosen, now=self.now, by=self.actor)
            messages.success(request, "Logged out there.")
        return HttpResponseRedirect(reverse("sessions"))
