"""What operators do for people: take lost second factors away, and look at what they see."""

from datetime import UTC, datetime
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseRedirect
from django.urls import reverse

from tenants import logins
from tenants.accounts import acting, factors
from tenants.models import User


class Helping:
    """Mixed in before the admin of people, which records it."""

    actions = ("take_factors_away", "log_in_as")

    @admin.action(description="Take second factors away: they are lost", permissions=["change"])
    def take_factors_away(self, request: HttpRequest, chosen: QuerySet[User]) -> None:
        """A password alone lets them in again, until they set new ones; whoever is in is out."""
        admin_of_people: Any = self
        for user in chosen:
            factors.take_away(user)
            logins.end_all(user, now=datetime.now(UTC))
            admin_of_people.audit_fact(request, user, "second_factors_removed")
        names = ", ".join(str(user) for user in chosen)
        admin_of_people.message_user(request, f"Taken away: {names}.", messages.WARNING)

    @admin.action(description="Log in as: see the portal as they do", permissions=["log_in_as"])
    def log_in_as(
        self, request: HttpRequest, chosen: QuerySet[User]
    ) -> HttpResponseRedirect | None:
        """For a while, to look: nothing can be changed meanwhile. It is in their audit log."""
        people = list(chosen[:2])
        if len(people) != 1 or people[0].is_staff or not people[0].is_active:
            admin_of_people: Any = self
            say = "Choose one person, who is active and no operator."
            admin_of_people.message_user(request, say, messages.ERROR)
            return None
        acting.begin(request, people[0], now=datetime.now(UTC))
        return HttpResponseRedirect(reverse("organizations"))

    def has_log_in_as_permission(self, request: HttpRequest) -> bool:
        """A permission of its own."""
        return request.user.has_perm(acting.PERMISSION)
