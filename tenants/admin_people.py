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

_RIGHTS = ("is_staff", "is_superuser", "groups", "user_permissions")


class SuperusersOnly:
    """Mixed in before an admin: rights are given by those who have all of them."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Others look."""
        return _is_superuser(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Others look."""
        return _is_superuser(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Others look."""
        return _is_superuser(request)


class Helping:
    """Mixed in before the admin of people, which records it.

    Who is an operator, and what operators may, is for superusers alone, and so is whatever is done
    to an operator: a password that was set, or a factor that is gone, is a way into their rights.
    """

    actions = ("take_factors_away", "log_in_as")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Rights too, for whoever is no superuser."""
        fields = super().get_readonly_fields(request, obj)  # type: ignore[misc]
        return fields if _is_superuser(request) else (*fields, *_RIGHTS)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Of the person's fields and password."""
        may = super().has_change_permission(request, obj)  # type: ignore[misc]
        return bool(may) and _may_act_on(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Of the person."""
        may = super().has_delete_permission(request, obj)  # type: ignore[misc]
        return bool(may) and _may_act_on(request, obj)

    @admin.action(description="Take second factors away: they are lost", permissions=["change"])
    def take_factors_away(self, request: HttpRequest, chosen: QuerySet[User]) -> None:
        """A password alone lets them in again, until they set new ones; whoever is in is out."""
        admin_of_people: Any = self
        if not all(_may_act_on(request, user) for user in chosen):
            say = "Only superusers take operators' second factors away; choose others."
            admin_of_people.message_user(request, say, messages.ERROR)
            return
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


def _is_superuser(request: HttpRequest) -> bool:
    return bool(request.user.is_active and request.user.is_superuser)


def _may_act_on(request: HttpRequest, person: User | None) -> bool:
    return person is None or not (person.is_staff or person.is_superuser) or _is_superuser(request)
