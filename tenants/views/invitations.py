"""/invitations/<token>: where the link in an invitation's letter leads."""

from datetime import UTC, datetime

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.views import View

from kit.errors import Refused
from tenants import invitations
from tenants.accounts import addresses
from tenants.accounts.adapter import invited
from tenants.models import User


class AnInvitation(View):
    """To whoever has its link, registered or not."""

    def dispatch(self, request: HttpRequest, *args: str, **kwargs: str) -> HttpResponseBase:
        """Say why not, where it is not good or not theirs."""
        try:
            return super().dispatch(request, *args, **kwargs)
        except Refused as refusal:
            context = {"refusal": refusal}
            return render(request, "portal/refused.html", context, status=refusal.status)

    def get(self, request: HttpRequest, token: str) -> HttpResponse:
        """From whom and to what; those who are not logged in do that first, or register."""
        invitation = invitations.shown(token, now=datetime.now(UTC))
        user = request.user if isinstance(request.user, User) else None
        if user is None:
            invited(request, invitation.email)
        context = {
            "invitation": invitation,
            "is_theirs": user is not None and addresses.are_confirmed(user, invitation.email),
        }
        response = render(request, "portal/invitation.html", context)
        response["Cache-Control"] = "no-store"
        return response

    def post(self, request: HttpRequest, token: str) -> HttpResponse:
        """Accept."""
        if not isinstance(request.user, User):
            return HttpResponseRedirect(reverse("invitation", args=[token]))
        member = invitations.accept(token, user=request.user, now=datetime.now(UTC))
        messages.success(request, f"Welcome to {member.organization.name}.")
        return HttpResponseRedirect(reverse("overview", args=[member.organization.slug]))
