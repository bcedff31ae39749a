"""What operators do for people who have lost their second factors."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from tenants.accounts import factors
from tenants.models import User


class LostFactors:
    """Mixed in before the admin of people, which records it."""

    actions = ("take_factors_away",)

    @admin.action(description="Take second factors away: they are lost", permissions=["change"])
    def take_factors_away(self, request: HttpRequest, chosen: QuerySet[User]) -> None:
        """A password alone lets them in again, until they set new ones."""
        admin_of_people: Any = self
        for user in chosen:
            factors.take_away(user)
            admin_of_people.audit_fact(request, user, "second_factors_removed")
        names = ", ".join(str(user) for user in chosen)
        admin_of_people.message_user(request, f"Taken away: {names}.", messages.WARNING)
