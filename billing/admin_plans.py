"""The operators' view of plans: what they cost, and who is on which."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import AutocompleteSelectFilter

from billing import subscriptions
from billing.admin_rows import Everyones, money_field, shown_units
from billing.models import Account
from billing.offers import PlanTerms, Subscription
from kit.errors import Refused
from kit.money import NANOS, show
from tenants import audit
from tenants.admin_audit import Audited
from tenants.models import Plan

_AMOUNTS = ("fee", "seat_fee", "allowance", "minimum")


class TermsForm(forms.ModelForm):  # type: ignore[type-arg]
    """Amounts in the currency's unit."""

    fee = money_field("A month, from its anniversary.")
    seat_fee = money_field("A month, for each seat past the included ones.")
    allowance = money_field("What each period pays of the use; what is left of it then ends.")
    minimum = money_field("What a whole calendar month's use comes to at least.")

    class Meta:
        model = PlanTerms
        fields = (
            *("plan", "currency", "effective_from", *_AMOUNTS, "included_seats", "trial_days"),
            *("self_service", "summary"),
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in _AMOUNTS:
            self.initial[name] = shown_units(getattr(self.instance, name))

    def clean(self) -> dict[str, Any]:
        """In nanos."""
        given = super().clean() or {}
        for name in _AMOUNTS:
            if given.get(name) is not None:
                given[name] = int(given[name] * NANOS)
        return given


@admin.register(PlanTerms)
class PlanTermsAdmin(Audited, ModelAdmin):  # type: ignore[misc]
    """What plans cost; to change it, add terms. The limits of a plan are under Plans."""

    audit_noun = "plan terms"
    list_display = ("plan", "currency", "effective_from", "a_month", "a_seat", "self_service")
    list_filter = ("currency", "self_service")
    list_select_related = ("plan",)
    autocomplete_fields = ("plan",)
    search_fields = ("plan__name",)
    form = TermsForm

    @admin.display(description="a month")
    def a_month(self, terms: PlanTerms) -> str:
        """For people."""
        return show(terms.fee, terms.currency)

    @admin.display(description="a seat")
    def a_seat(self, terms: PlanTerms) -> str:
        """For people."""
        return show(terms.seat_fee, terms.currency)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Until they take effect."""
        begun = obj is not None and obj.effective_from <= timezone.now()
        return super().has_change_permission(request, obj) and not begun

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Until they take effect."""
        begun = obj is not None and obj.effective_from <= timezone.now()
        return super().has_delete_permission(request, obj) and not begun


class SubscriptionForm(forms.ModelForm):  # type: ignore[type-arg]
    """Whom to put on which plan."""

    wanted = forms.ModelChoiceField(Plan.objects.order_by("name"), label="plan")
    seats = forms.IntegerField(min_value=1, required=False, help_text="Empty: as many as needed.")

    class Meta:
        model = Subscription
        fields = ("organization", "zone")

    def clean(self) -> dict[str, Any]:
        """What choosing would refuse is said beside the field."""
        given = super().clean() or {}
        owner = given.get("organization") or self.instance.organization
        if self.errors:
            return given
        if not Account.objects.for_org(owner).exists():
            raise forms.ValidationError("It has no account yet; make one first.")
        try:
            subscriptions.quote(
                organization=owner.pk,
                plan=given["wanted"].name,
                seats=given["seats"],
                now=timezone.now(),
                operator=True,
            )
        except Refused as refusal:
            raise forms.ValidationError(refusal.message) from refusal
        return given


@admin.register(Subscription)
class SubscriptionAdmin(Everyones):
    """Who is on which plan. Operators choose as customers do, also what those may not."""

    list_display = ("organization", "plan", "seats", "state", "period_end", "cancel_at_end", "then")
    list_filter = (("organization", AutocompleteSelectFilter), "state")
    list_select_related = ("organization", "terms__plan", "next_plan")
    search_fields = ("organization__name", "organization__slug")
    autocomplete_fields = ("organization",)
    actions = ("cancel",)
    form = SubscriptionForm

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """What is chosen, and how it stands."""
        stands = ("state", "plan", "period_start", "period_end", "then") if obj else ()
        return ("organization", "wanted", "seats", "zone", *stands)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Whose it is stays."""
        stands = ("state", "plan", "period_start", "period_end", "then")
        return ("organization", "zone", *stands) if obj else ()

    @admin.display(description="then")
    def then(self, row: Subscription) -> str:
        """What comes with the next period."""
        if row.cancel_at_end:
            return "ends"
        if row.paused_at is not None:
            return "paused until it is reinstated"
        return f"{row.next_plan}, {row.next_seats} seats" if row.next_plan else "goes on"

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """As a customer chooses."""
        row = subscriptions.choose(
            organization=obj.organization_id,
            plan=form.cleaned_data["wanted"].name,
            seats=form.cleaned_data["seats"],
            zone=None if change else form.cleaned_data["zone"],
            now=timezone.now(),
            by=audit.operator(request.user),
            operator=True,
        )
        for field in row._meta.concrete_fields:
            setattr(obj, field.attname, getattr(row, field.attname))

    @admin.action(description="End them with their period")
    def cancel(self, request: HttpRequest, queryset: QuerySet[Subscription]) -> None:
        """They hold until then."""
        for row in queryset:
            try:
                subscriptions.cancel(
                    organization=row.organization_id,
                    now=timezone.now(),
                    by=audit.operator(request.user),
                )
            except Refused as refusal:
                self.message_user(request, refusal.message, messages.WARNING)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A subscription ends; it is not unmade."""
        return False
