"""A person's organizations, and the making of a new one's schema."""

from collections.abc import Mapping
from typing import ClassVar

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.urls import reverse

from tenants import schemas
from tenants.models import Membership
from tenants.roles import Action
from tenants.views.access import OrganizationPage, PersonPage


class Organizations(PersonPage):
    """Those one belongs to."""

    def get(self, request: HttpRequest) -> HttpResponse:
        """By name, with one's role in each."""
        places = Membership.objects.across_organizations().filter(user=self.person)
        places = places.filter(organization__erased_at=None).select_related("organization")
        context = {"memberships": places.order_by("organization__name")}
        return render(request, "portal/organizations.html", context)


class Making(OrganizationPage):
    """How far a new organization's schema is; asks for it again where it stands still."""

    actions: ClassVar[Mapping[str, Action]] = {
        "GET": Action.READ_MEMBERS,
        "POST": Action.READ_MEMBERS,
    }
    here = "making"

    def get(self, request: HttpRequest) -> HttpResponse:
        """A page that asks again by itself; its script asks with `?as=json`."""
        progress = schemas.progress(self.organization, now=self.now)
        if request.GET.get("as") == "json":
            return JsonResponse(
                {
                    "ready": progress.ready,
                    "working": progress.working,
                    "percent": progress.percent,
                }
            )
        if progress.ready:
            return HttpResponseRedirect(reverse("overview", args=[self.organization.slug]))
        return self.page("portal/making.html", {"progress": progress})

    def post(self, request: HttpRequest) -> HttpResponse:
        """Once more; a task that is at work is not disturbed."""
        schemas.ask(self.organization.pk)
        return HttpResponseRedirect(self.back())
