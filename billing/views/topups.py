"""On the billing page: credit that is bought by itself."""

from collections.abc import Mapping
from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponse

from billing import topup_rules
from billing.invoicing import shown as minor_shown
from billing.receivables import Payment
from kit import money
from kit.errors import Invalid
from kit.money import show
from tenants.roles import Action
from tenants.views.access import OrganizationPage


def shown(organization: int) -> Mapping[str, Any]:
    """The rule, and what came of it the last time."""
    rule = topup_rules.rule(organization)
    payments = Payment.objects.for_org(organization).filter(invoice=None)
    last = payments.order_by("-pk").first()
    return {
        "top_up_rule": rule
        and {
            "below": show(rule.below, rule.currency),
            "amount": show(rule.amount, rule.currency),
            "below_field": _field(rule.below),
            "amount_field": _field(rule.amount),
            "stopped": rule.stopped,
        },
        "last_top_up": last
        and {
            "at": last.created_at,
            "amount": minor_shown(last.amount_minor, last.currency),
            "status": last.status,
            "failure": last.failure,
        },
    }


class _Page(OrganizationPage):
    here = "billing"
    open_while_suspended = True
    actions: ClassVar[Mapping[str, Action]] = {"POST": Action.MANAGE_BILLING}


class SetAutoTopUp(_Page):
    """A rule is set, or one that stopped goes on."""

    def post(self, request: HttpRequest) -> HttpResponse:
        """From the form's fields."""
        topup_rules.decide(
            organization=self.caller.organization,
            below=_amount(request, "below"),
            amount=_amount(request, "amount"),
            now=self.now,
            by=self.actor,
        )
        return self.done("Credit is bought by itself.")


class StopAutoTopUp(_Page):
    """Nothing is bought by itself any more."""

    def post(self, request: HttpRequest) -> HttpResponse:
        """Again changes nothing."""
        topup_rules.give_up(organization=self.caller.organization, now=self.now, by=self.actor)
        return self.done("No credit is bought by itself.")


def _amount(request: HttpRequest, field: str) -> int:
    try:
        return money.parse(request.POST.get(field, "").strip())
    except ValueError as error:
        raise Invalid(f"{field}: {error}", param=field) from None


def _field(nanos: int) -> str:
    """As a person would have typed it: `10.00`."""
    whole, _, part = money.decimal(nanos).partition(".")
    return f"{whole}.{part.rstrip('0').ljust(2, '0')}"
