"""/o/<slug>/billing/plan: the plan, chosen by people: first what it would cost, then done."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponse

from billing import subscriptions
from billing.offers import PlanTerms, Subscription
from kit.errors import Invalid
from kit.money import show
from tenants.roles import Action
from tenants.views.access import OrganizationPage


class _Page(OrganizationPage):
    """Open while suspended: whoever owes has to be able to cancel."""

    here = "billing"
    open_while_suspended = True


class ChoosePlan(_Page):
    """A plan is wanted: its price, and once that is confirmed the plan."""

    actions: ClassVar[Mapping[str, Action]] = {"POST": Action.MANAGE_BILLING}

    def post(self, request: HttpRequest) -> HttpResponse:
        """With `confirmed`, done; without, a page that says what it comes to."""
        wanted: dict[str, Any] = {
            "organization": self.caller.organization,
            "plan": request.POST.get("plan", ""),
            "seats": _seats(request.POST.get("seats", "")),
            "now": self.now,
        }
        if "confirmed" in request.POST:
            subscriptions.choose(**wanted, by=self.actor)
            return self.done("The plan is chosen.")
        found = subscriptions.quote(**wanted)
        context = {
            "quote": found,
            "due_now": show(found.due_now, found.currency),
            "cost": show(found.cost, found.currency),
        }
        return self.page("portal/plan.html", context)


class CancelPlan(_Page):
    """The plan ends with its period."""

    actions: ClassVar[Mapping[str, Action]] = {"POST": Action.MANAGE_BILLING}

    def post(self, request: HttpRequest) -> HttpResponse:
        """Until then it holds."""
        subscriptions.cancel(organization=self.caller.organization, now=self.now, by=self.actor)
        return self.done("The plan ends with its period.")


def shown(organization: int, now: datetime) -> Mapping[str, Any]:
    """What the billing page says of the plan, and which there are to choose from."""
    found = subscriptions.current(organization)
    running = found if found is not None and found.is_on else None
    return {
        "subscription": running,
        "plan_cost": _cost(running) if running else "",
        "plans": [
            {"terms": each, "is_running": _is(each, running), **_amounts(each)}
            for each in subscriptions.offered(organization=organization, now=now)
        ],
    }


def _is(terms: PlanTerms, running: Subscription | None) -> bool:
    return running is not None and running.plan == terms.plan


def _cost(running: Subscription) -> str:
    return show(running.terms.cost(running.seats), running.terms.currency)


def _amounts(each: PlanTerms) -> Mapping[str, str]:
    amounts = ("fee", "seat_fee", "allowance", "minimum")
    return {
        name: show(getattr(each, name), each.currency) if getattr(each, name) else ""
        for name in amounts
    }


def _seats(text: str) -> int | None:
    if not text.strip():
        return None
    if not text.strip().isascii() or not text.strip().isdigit() or len(text) > 7:
        raise Invalid(f"seats: {text!r} is no number.", param="seats")
    return int(text)
