"""The operators' view of payments: collections, attempts, webhooks, mails; grants and budgets."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import AutocompleteSelectFilter

from billing import budgets, collecting, credit, events, grants, refunds
from billing.admin_rows import Everyones, ReadOnly, money_field, shown_units, typed_minor
from billing.allowances import AutoTopUp, Budget, Grant
from billing.invoicing import shown
from billing.models import Account
from billing.receivables import Collection, Mail, Payment, ProviderEvent, Refund
from kit.errors import Refused
from kit.money import NANOS, show, to_minor
from tenants import audit
from tenants.admin_audit import Audited


@admin.register(Collection)
class CollectionAdmin(ReadOnly, Everyones):
    """Invoices on their way to be paid."""

    list_display = ("invoice", "organization", "stage", "step", "next_at", "retry_at", "error")
    list_filter = (("organization", AutocompleteSelectFilter), "stage")
    search_fields = ("invoice__number", "remote", "organization__slug")
    list_select_related = ("organization", "invoice", "invoice__organization")
    actions = ("look_again",)

    @admin.action(description="Look at them again")
    def look_again(self, request: HttpRequest, queryset: QuerySet[Collection]) -> None:
        """The poller does, within a minute."""
        now = timezone.now()
        collecting.wake(now=now, pk__in=[row.pk for row in queryset])
        self.message_user(request, "They are looked at within a minute.", messages.SUCCESS)


@admin.register(Payment)
class PaymentAdmin(ReadOnly, Everyones):
    """Charges of cards, one row an attempt."""

    list_display = (
        *("invoice", "organization", "attempt", "charged", "back", "status", "failure"),
        "created_at",
    )
    list_filter = (("organization", AutocompleteSelectFilter), "status")
    search_fields = ("invoice__number", "reference", "organization__slug")
    list_select_related = ("organization", "invoice", "invoice__organization")

    @admin.display(description="amount")
    def charged(self, payment: Payment) -> str:
        """In the currency's minor unit."""
        return shown(payment.amount_minor, payment.currency)

    @admin.display(description="given back", empty_value="-")
    def back(self, payment: Payment) -> str | None:
        """In the currency's minor unit, where some was."""
        back = payment.refunded_minor
        return shown(back, payment.currency) if back else None


class RefundForm(forms.ModelForm):  # type: ignore[type-arg]
    """How much of which top-up goes back to its card."""

    minor: int | None = None
    amount = money_field("In its currency. Empty: all that is unspent.", required=False)

    class Meta:
        model = Refund
        fields = ("payment", "reason")

    def clean(self) -> dict[str, Any]:
        """What cannot be given back is said here."""
        given = super().clean() or {}
        if self.errors:
            return given
        payment = given["payment"]
        if given["amount"] is not None:
            self.minor = typed_minor(given["amount"], payment.currency, "amount")
        try:
            refunds.require_refundable(payment, self.minor)
        except Refused as refusal:
            raise forms.ValidationError(refusal.message) from refusal
        return given


@admin.register(Refund)
class RefundAdmin(Everyones):
    """Top-ups given back: the credit shrinks at once, the card has it within minutes."""

    list_display = (
        *("organization", "payment", "given_back", "status", "reason", "failure"),
        *("created_at", "settled_at"),
    )
    list_filter = (("organization", AutocompleteSelectFilter), "status")
    list_select_related = ("organization", "payment__organization", "payment__invoice")
    search_fields = ("reference", "payment__reference", "organization__slug", "reason")
    autocomplete_fields = ("payment",)
    form = RefundForm

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """A form, or what stands."""
        if obj is None:
            return ("payment", "amount", "reason")
        stands = ("status", "failure", "reference", "created_at", "settled_at", "next_at")
        return ("organization", "payment", "given_back", "reason", *stands)

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **how: Any) -> Any:
        """Top-ups that stand."""
        rows = Payment.objects.across_organizations().exclude(grant=None)
        how["queryset"] = rows.select_related("organization")
        return super().formfield_for_foreignkey(db_field, request, **how)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only adding."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Money moved."""
        return False

    def save_model(self, request: HttpRequest, obj: Refund, form: Any, change: bool) -> None:
        """Asked for by the domain, which records it."""
        row = refunds.ask(
            payment=obj.payment_id,
            minor=form.minor,
            reason=obj.reason,
            now=timezone.now(),
            by=audit.operator(request.user),
        )
        for field in row._meta.concrete_fields:
            setattr(obj, field.attname, getattr(row, field.attname))

    @admin.display(description="amount")
    def given_back(self, refund: Refund) -> str:
        """In the currency's minor unit."""
        return shown(refund.amount_minor, refund.payment.currency)


@admin.register(ProviderEvent)
class ProviderEventAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Webhooks as they came."""

    list_display = ("id", "kind", "received_at", "handled_at", "tries", "error")
    list_filter = ("kind",)
    search_fields = ("id", "kind")
    actions = ("replay",)

    @admin.action(description="Handle them again")
    def replay(self, request: HttpRequest, queryset: QuerySet[ProviderEvent]) -> None:
        """What they tell of is read from the provider anew: twice does no harm."""
        for event in queryset:
            events.replay(event.pk)
        self.message_user(request, "They are handled within a minute.", messages.SUCCESS)


@admin.register(Mail)
class MailAdmin(ReadOnly, Everyones):
    """What was written about money."""

    list_display = ("subject", "organization", "to", "created_at", "sent_at", "error")
    list_filter = (("organization", AutocompleteSelectFilter),)
    search_fields = ("subject", "to", "organization__slug")


class GrantForm(forms.ModelForm):  # type: ignore[type-arg]
    """Credit with a reason, in the currency's unit."""

    worth = money_field("In the account's currency.")

    class Meta:
        model = Grant
        fields = ("organization", "reason", "expires_at")

    def clean_organization(self) -> Any:
        """Only whoever has an account has credit."""
        organization = self.cleaned_data["organization"]
        if not Account.objects.for_org(organization).exists():
            raise forms.ValidationError("It has no account yet; make one first.")
        return organization


@admin.register(Grant)
class GrantAdmin(Everyones):
    """Credit that was given or paid for before. Given for good: what is wrong runs out."""

    list_display = ("organization", "kind", "given", "unused", "expires_at", "reason", "created_at")
    list_filter = (("organization", AutocompleteSelectFilter), "kind")
    search_fields = ("reason", "organization__slug", "organization__name")
    autocomplete_fields = ("organization",)
    form = GrantForm

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """A form, or what stands."""
        if obj is None:
            return ("organization", "worth", "reason", "expires_at")
        return ("organization", "kind", "given", "unused", "reason", "expires_at", "created_at")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only adding."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Uses hang on it."""
        return False

    def save_model(self, request: HttpRequest, obj: Grant, form: Any, change: bool) -> None:
        """Given by the domain, and audited."""
        now, amount = timezone.now(), int(form.cleaned_data["worth"] * NANOS)
        made = grants.give(
            organization=obj.organization_id,
            amount=amount,
            reason=obj.reason,
            expires_at=obj.expires_at,
            now=now,
        )
        obj.pk, obj.amount, obj.remaining, obj.created_at = made.pk, amount, amount, now
        change_of = audit.Change(
            "credit.given", f"grant:{made.pk}", after={"amount": amount, "reason": obj.reason}
        )
        by = audit.operator(request.user)
        audit.record(change_of, by=by, organization=obj.organization_id, now=now)

    @admin.display(description="amount", ordering="amount")
    def given(self, grant: Grant) -> str:
        """For people."""
        return show(grant.amount, _currency(grant.organization_id))

    @admin.display(description="left", ordering="remaining")
    def unused(self, grant: Grant) -> str:
        """For people."""
        return show(grant.remaining, _currency(grant.organization_id))


class BudgetForm(forms.ModelForm):  # type: ignore[type-arg]
    """A month's, in the currency's unit."""

    worth = money_field("A month, in the account's currency.")

    class Meta:
        model = Budget
        fields = ("organization", "scope", "subject", "hard")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.initial["worth"] = shown_units(self.instance.amount)

    def clean(self) -> dict[str, Any]:
        """The amount in nanos, the subject as requests name it."""
        given = super().clean() or {}
        given["subject"] = budgets.counted_as(given.get("scope", ""), given.get("subject", ""))
        if given.get("worth") is not None:
            self.instance.amount = int(given["worth"] * NANOS)
        return given


@admin.register(Budget)
class BudgetAdmin(Audited, Everyones):
    """What may be spent in a month."""

    list_display = ("organization", "scope", "subject", "monthly", "hard")
    list_filter = (("organization", AutocompleteSelectFilter), "scope", "hard")
    search_fields = ("subject", "organization__slug")
    autocomplete_fields = ("organization",)
    fields = ("organization", "scope", "subject", "worth", "hard")
    form = BudgetForm

    @admin.display(description="a month", ordering="amount")
    def monthly(self, budget: Budget) -> str:
        """For people."""
        return show(budget.amount, _currency(budget.organization_id))

    def save_model(self, request: HttpRequest, obj: Budget, form: Any, change: bool) -> None:
        """Save, and have the counters learn of it."""
        super().save_model(request, obj, form, change)
        credit.renew_on_commit(obj.organization_id)

    def delete_model(self, request: HttpRequest, obj: Budget) -> None:
        """Delete, and have the counters learn of it."""
        organization = obj.organization_id
        super().delete_model(request, obj)
        credit.renew_on_commit(organization)


class AutoTopUpForm(forms.ModelForm):  # type: ignore[type-arg]
    """Both amounts in the currency's unit."""

    least = money_field("Buy when less than this is left.")
    buys = money_field("How much is bought at a time.")

    class Meta:
        model = AutoTopUp
        fields = ("organization", "stopped")

    def clean(self) -> dict[str, Any]:
        """In nanos, and in the currency's minor unit."""
        given = super().clean() or {}
        organization = given.get("organization") or self.instance.organization
        if given.get("least") is not None and given.get("buys") is not None:
            nanos = int(given["buys"] * NANOS)
            self.instance.below = int(given["least"] * NANOS)
            [self.instance.amount_minor] = to_minor([nanos], _currency(organization.pk))
        return given


@admin.register(AutoTopUp)
class AutoTopUpAdmin(Audited, Everyones):
    """Credit that is bought by itself; empty "stopped" to have it go on."""

    list_display = ("organization", "when", "bought", "stopped")
    fields = ("organization", "least", "buys", "stopped")
    form = AutoTopUpForm
    search_fields = ("organization__slug", "organization__name")
    autocomplete_fields = ("organization",)

    @admin.display(description="when less is left", ordering="below")
    def when(self, rule: AutoTopUp) -> str:
        """For people."""
        return show(rule.below, _currency(rule.organization_id))

    @admin.display(description="buys", ordering="amount_minor")
    def bought(self, rule: AutoTopUp) -> str:
        """For people."""
        return shown(rule.amount_minor, _currency(rule.organization_id))


def _currency(organization: int) -> str:
    rows = Account.objects.for_org(organization).values_list("currency", flat=True)
    return rows.first() or ""
