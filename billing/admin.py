"""The operators' view of money. Only accounts and prices to come can be changed here."""

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.paginator import InfinitePaginator

from billing import admin_invoices, admin_payments, admin_plans, admin_prices, credit
from billing.admin_rows import (
    Everyones,
    ModelFilter,
    MonthFilter,
    OfMonth,
    ReadOnly,
    StateFilter,
    money_field,
    shown_units,
)
from billing.models import Account, LedgerEntry, Period
from kit.money import NANOS, show
from tenants.admin_audit import Audited

__all__ = ["admin_invoices", "admin_payments", "admin_plans", "admin_prices"]


class AccountForm(forms.ModelForm):  # type: ignore[type-arg]
    """The limit in the currency's unit."""

    credit_limit = money_field("The most that may be owed at once, in the account's currency.")

    class Meta:
        model = Account
        fields = ("organization", "currency", "credit_limit")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.initial["credit_limit"] = shown_units(self.instance.credit_limit)

    def clean_credit_limit(self) -> int:
        """In nanos."""
        return int(self.cleaned_data["credit_limit"] * NANOS)


@admin.register(Account)
class AccountAdmin(Audited, Everyones):
    """What an organization may owe."""

    list_display = ("organization", "currency", "limit")
    search_fields = ("organization__name", "organization__slug")
    search_help_text = "An organization's name or slug"
    autocomplete_fields = ("organization",)
    form = AccountForm
    readonly_fields = ("owed",)

    @admin.display(description="credit limit", ordering="credit_limit")
    def limit(self, account: Account) -> str:
        """For people."""
        return show(account.credit_limit, account.currency)

    @admin.display(description="owed now")
    def owed(self, account: Account) -> str:
        """The ledger's rows that no settled invoice covers."""
        return show(credit.owed(account.organization_id), account.currency)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Whose account it is, and in what currency, stays as it is."""
        fixed = ("organization", "currency") if obj else ()
        return (*fixed, *(self.readonly_fields if obj else ()))

    def save_model(self, request: HttpRequest, obj: Account, form: Any, change: bool) -> None:
        """Save, and let Redis know."""
        super().save_model(request, obj, form, change)
        credit.renew_on_commit(obj.organization_id)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """An account outlives everything that was booked to it."""
        return False


@admin.register(LedgerEntry)
class LedgerEntryAdmin(OfMonth, ReadOnly, Everyones):
    """Every request that was ever billed. Pages without a count: the table is large."""

    list_display = (
        "request",
        "organization",
        "model",
        "state",
        "used",
        "charged",
        "booked_to",
        "label",
        "kind",
        "created_at",
    )
    list_filter = (
        ("organization", AutocompleteSelectFilter),
        MonthFilter,
        ModelFilter,
        StateFilter,
    )
    search_fields = ("request",)
    search_help_text = "Request, label or key id, whole"
    fieldsets = (
        (None, {"fields": ("request", "organization", "state", "booked_to", "created_at")}),
        ("Amount", {"fields": ("charged", "parts", "used", "price_version")}),
        ("Request", {"fields": ("kind", "model", "project", "key", "label", "region")}),
    )
    paginator = InfinitePaginator
    show_full_result_count = False
    ordering = ("-request",)
    sortable_by = ()

    @admin.display(description="units")
    def used(self, entry: LedgerEntry) -> str:
        """For people."""
        return " · ".join(f"{n:,} {meter.replace('_', ' ')}" for meter, n in entry.units.items())

    @admin.display(description="of which")
    def parts(self, entry: LedgerEntry) -> str:
        """By meter, exact."""
        return " · ".join(
            f"{meter.replace('_', ' ')} {show(nanos, entry.currency)}"
            for meter, nanos in entry.amounts.items()
        )

    @admin.display(description="amount")
    def charged(self, entry: LedgerEntry) -> str:
        """For people, exact."""
        return show(entry.amount, entry.currency)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Whole terms, so that indexes answer."""
        term = search_term.strip()
        if not term:
            return queryset, False
        try:
            return queryset.filter(request=UUID(term)), False
        except ValueError:
            return queryset.filter(Q(label=term) | Q(key=term)), False


@admin.register(Period)
class PeriodAdmin(OfMonth, ReadOnly, Everyones):
    """Which months are open."""

    list_display = ("organization", "booked_to", "closed_at")
    fields = ("organization", "booked_to", "closed_at")
    list_filter = (("organization", AutocompleteSelectFilter), MonthFilter)
    search_fields = ("organization__name", "organization__slug")
