"""What every page of the portal does first: who is logged in, and whether they may.

An organization of which they are no member is not there: 404, as for one that does not exist.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.views import View
from psycopg.errors import QueryCanceled

from kit.edge import timed_out
from kit.errors import Refused
from tenants import audit, upkeep
from tenants.accounts import acting, factors
from tenants.audit import Actor
from tenants.auth import Caller, Limits, Suspended, TwoFactorsRequired, two_factors_wanted
from tenants.models import Membership, Organization, Role, User
from tenants.roles import Action, scopes_of
from tenants.views.navigation import links

PERMISSION = frozenset({401, 403, 404})
_LOOKING = frozenset({"GET", "HEAD", "OPTIONS"})


class OnlyLooking(Refused):
    """An operator who sees the page as somebody else does."""

    status, code = 403, "only_looking"


def _only_looking(person: User) -> OnlyLooking:
    return OnlyLooking(
        f"You see this as {person} does. What is to be changed, change in the admin, in your own "
        "name."
    )


class PersonPage(View):
    """A page for whoever is logged in, or for the operator who looks as somebody does."""

    person: User
    seen_as: User | None
    visitor: User
    now: datetime

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Know the person, or have them log in."""
        if not request.user.is_authenticated:
            return redirect_to_login(request.get_full_path())
        self.now = datetime.now(UTC)
        self.seen_as = acting.whom(request, now=self.now)
        self.visitor = request.user
        self.person = self.seen_as or self.visitor
        if self.seen_as and request.method not in _LOOKING:
            return PersonPage.refused(self, request, _only_looking(self.person))
        try:
            return self.answer(request, *args, **kwargs)
        except Refused as refusal:
            return self.refused(request, refusal)
        except OperationalError as error:
            if isinstance(error.__cause__, QueryCanceled):
                return self.refused(request, timed_out())
            raise

    def answer(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """The method's own answer."""
        return super().dispatch(request, *args, **kwargs)

    def refused(self, request: HttpRequest, refusal: Refused) -> HttpResponse:
        """Say why: on a page of its own, or, where a form can be sent again, beside it."""
        if request.method == "POST" and refusal.status not in PERMISSION:
            messages.error(request, refusal.message)
            return HttpResponseRedirect(self.back())
        return render(request, "portal/refused.html", {"refusal": refusal}, status=refusal.status)

    def back(self) -> str:
        """The page that has the form."""
        return self.request.path

    @property
    def actor(self) -> Actor:
        """As the audit log names the person."""
        return audit.person(self.person)


class OrganizationPage(PersonPage):
    """A page of `/o/<slug>/`.

    `actions` says what each method needs in the table of permissions, `here` which place of the
    navigation it belongs to, and that is where forms lead back to. While the organization is
    suspended only pages that are `open_while_suspended` are served.
    """

    actions: ClassVar[Mapping[str, Action]]
    here: ClassVar[str]
    open_while_suspended: ClassVar[bool] = False
    caller: Caller
    organization: Organization

    def answer(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Only for members whose role may, only while the organization is served."""
        slug = kwargs.pop("organization")
        member = (
            Membership.objects.filter(organization__slug=slug, user=self.person)
            .select_related("organization")
            .first()
        )
        if member is None or member.organization.erased_at is not None:
            raise Http404
        self.organization = member.organization
        self.caller = _as_caller(member)
        method = "GET" if request.method == "HEAD" else str(request.method)
        if method in self.actions:
            self.caller.allow(self.actions[method])
        if self.organization.two_factors_required and not factors.are_set(self.visitor):
            raise TwoFactorsRequired(two_factors_wanted(slug))
        if self.organization.suspended_at is not None and not self.open_while_suspended:
            raise Suspended(
                f"The organization {slug!r} is suspended"
                f"{': ' if self.organization.suspended_reason else ''}"
                f"{self.organization.suspended_reason}."
            )
        if self.organization.ready_at is None and self.here != "making":
            return HttpResponseRedirect(reverse("making", args=[slug]))
        with upkeep.entered(self.organization.pk, request.id):  # type: ignore[attr-defined]
            return super().answer(request, *args, **kwargs)

    def back(self) -> str:
        """The place it belongs to."""
        return reverse(self.here, args=[self.organization.slug])

    def page(self, template: str, context: Mapping[str, Any]) -> HttpResponse:
        """A page with the organization's navigation."""
        return render(self.request, template, {**self._frame(), **context})

    def done(self, message: str) -> HttpResponse:
        """Say what was done, on the page that the form came from."""
        messages.success(self.request, message)
        return HttpResponseRedirect(self.back())

    def refused(self, request: HttpRequest, refusal: Refused) -> HttpResponse:
        """With the navigation, for members."""
        if request.method == "POST" and refusal.status not in PERMISSION:
            return super().refused(request, refusal)
        context = {**self._frame(), "refusal": refusal}
        return render(request, "portal/refused.html", context, status=refusal.status)

    def _frame(self) -> dict[str, Any]:
        return {
            "organization": self.organization,
            "role": self.caller.role,
            "places": list(links(self.caller, here=self.here)),
        }


def _as_caller(member: Membership) -> Caller:
    """A member in their organization; no limits, since pages run no models."""
    organization, role = member.organization, Role(member.role)
    return Caller(
        organization=organization.pk,
        slug=organization.slug,
        schema=organization.schema_name,
        key=f"u:{member.user_id}",
        scopes=scopes_of(role),
        models=frozenset(),
        limits=Limits(),
        key_limits=Limits(),
        priority=organization.priority,
        user=member.user_id,
        role=role,
    )
