"""/o/<slug>/billing: credit, budgets, invoices and the card, for people."""

from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from billing import budgets, buyers, checkouts, credit, gateway, grants, refunded, standing
from billing.allowances import Budget
from billing.invoicing import shown
from billing.models import Invoice
from billing.receivables import Checkout, PaymentProfile
from billing.soon import soon
from billing.views import plan, topups
from kit import money
from kit.edge import NotFound
from kit.errors import Invalid
from kit.money import show
from tenants.roles import Action
from tenants.views.access import OrganizationPage

_DOCUMENTS = 24


class _Page(OrganizationPage):
    """Open while suspended: whoever owes has to be able to pay."""

    here = "billing"
    open_while_suspended = True


class Billing(_Page):
    """Everything at a glance."""

    actions: ClassVar[Mapping[str, Action]] = {"GET": Action.READ_USAGE}

    def get(self, request: HttpRequest) -> HttpResponse:
        """Credit, the month, budgets, documents and how they are paid."""
        organization = self.caller.organization
        context = {
            "standing": None,
            "may_pay": self.caller.may(Action.MANAGE_BILLING),
            "takes_cards": gateway.enabled(),
            "card": _card(organization),
            "details": buyers.read(organization),
            "documents": _documents(organization),
            "refunds": [
                {"row": each, "amount": show(each.nanos, each.currency)}
                for each in refunded.listed(organization)
            ],
            "scopes": Budget.Scope.choices,
        }
        try:
            found = standing.of(organization=organization, now=self.now)
        except credit.NoAccount:
            return self.page("portal/billing.html", context)
        return self.page("portal/billing.html", {**context, **self._money(found)})

    def _money(self, found: standing.Standing) -> Mapping[str, Any]:
        currency, organization = found.currency, self.caller.organization
        good = grants.good(organization, now=self.now)
        return {
            "currency": currency,
            "month": found.month,
            **plan.shown(organization, self.now),
            **topups.shown(organization),
            "standing": {
                "left": show(found.left, currency),
                "limit": show(found.limit, currency),
                "prepaid": show(found.prepaid, currency),
                "owed": show(found.owed, currency),
                "spent": show(found.spent, currency),
                "forecast": show(found.forecast - found.forecast % 10_000_000, currency),
            },
            "grants": [
                {"grant": each, "left": show(each.remaining, currency)}
                for each in good
                if each.remaining
            ],
            "budgets": [
                {
                    "budget": each,
                    "amount": show(each.amount, currency),
                    "spent": show(each.spent, currency),
                    "percent": min(100, each.spent * 100 // each.amount) if each.amount else 100,
                }
                for each in budgets.listed(organization=organization, now=self.now)
            ],
        }


class OpenCheckout(_Page):
    """A page at the payment provider is wanted."""

    actions: ClassVar[Mapping[str, Action]] = {"POST": Action.MANAGE_BILLING}

    def post(self, request: HttpRequest) -> HttpResponse:
        """Asked for by a task; the next page waits for it."""
        kind = request.POST.get("kind", "")
        if kind not in Checkout.Kind.values:
            raise Invalid(f"kind: {kind!r} is none of {', '.join(Checkout.Kind.values)}.")
        found = checkouts.ask(
            organization=self.caller.organization,
            kind=kind,
            back=request.build_absolute_uri(self.back()),
            amount=_amount(request.POST.get("amount", "0") or "0"),
            now=self.now,
        )
        soon("billing.open_checkout", checkout=str(found.pk))
        slug = self.organization.slug
        return HttpResponseRedirect(reverse("billing-checkout", args=[slug, found.pk]))


class WaitForCheckout(_Page):
    """Until the provider has answered; then onwards to its page."""

    actions: ClassVar[Mapping[str, Action]] = {"GET": Action.MANAGE_BILLING}

    def get(self, request: HttpRequest, identifier: UUID) -> HttpResponse:
        """A page that loads itself again, or leads to the provider's.

        By itself and not by a redirect: pages may send forms here alone, and a redirect that
        answers one counts as where it is sent.
        """
        rows = Checkout.objects.for_org(self.caller.organization).filter(pk=identifier)
        found = rows.first()
        if found is None:
            raise NotFound("There is no such page.")
        if found.status == Checkout.Status.DONE:
            return HttpResponseRedirect(self.back())
        return self.page("portal/checkout.html", {"checkout": found})


class SetBudget(_Page):
    """A budget is set."""

    actions: ClassVar[Mapping[str, Action]] = {"POST": Action.MANAGE_BILLING}

    def post(self, request: HttpRequest) -> HttpResponse:
        """From the form's fields."""
        scope = request.POST.get("scope", "")
        if scope not in Budget.Scope.values:
            raise Invalid(f"scope: {scope!r} is none of {', '.join(Budget.Scope.values)}.")
        budgets.create(
            organization=self.caller.organization,
            scope=scope,
            subject=request.POST.get("subject", "").strip()[:64],
            amount=_amount(request.POST.get("amount", "")),
            hard="hard" in request.POST,
            now=self.now,
            by=self.actor,
        )
        return self.done("The budget is set.")


class SetDetails(_Page):
    """Whom invoices are made out to is said."""

    actions: ClassVar[Mapping[str, Action]] = {"POST": Action.MANAGE_BILLING}

    def post(self, request: HttpRequest) -> HttpResponse:
        """From the form's fields."""
        names = ("name", "address", "country", "vat_id", "email")
        details = buyers.Details(**{name: request.POST.get(name, "") for name in names})
        buyers.write(
            organization=self.caller.organization, details=details, now=self.now, by=self.actor
        )
        return self.done("The next invoice is made out to that.")


class RemoveBudget(_Page):
    """A budget is taken away."""

    actions: ClassVar[Mapping[str, Action]] = {"POST": Action.MANAGE_BILLING}

    def post(self, request: HttpRequest, identifier: int) -> HttpResponse:
        """It counts no more."""
        budgets.remove(
            organization=self.caller.organization,
            budget=identifier,
            now=self.now,
            by=self.actor,
        )
        return self.done("The budget is gone.")


def _amount(text: str) -> int:
    try:
        return money.parse(text.strip())
    except ValueError as error:
        raise Invalid(f"amount: {error}", param="amount") from None


def _card(organization: int) -> str:
    rows = PaymentProfile.objects.for_org(organization).values_list("card", flat=True)
    return rows.first() or ""


def _documents(organization: int) -> list[Mapping[str, Any]]:
    rows = Invoice.objects.for_org(organization).exclude(number=None)
    return [
        {"row": row, "total": shown(row.due_minor, row.currency)}
        for row in rows.order_by("-issued_at", "-pk")[:_DOCUMENTS]
    ]
