"""What the admins of money share: whose rows, of which month, and that nobody touches them."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import DropdownFilter
from unfold.widgets import UnfoldAdminDecimalFieldWidget

from billing.models import LARGEST, PriceVersion, State
from billing.months import month_after, month_before, month_of, parse_month
from kit.money import NANOS, decimal, from_minor, minor_exponent, to_minor

_MONTHS_LISTED = 24


def money_field(help_text: str, *, required: bool = True) -> forms.DecimalField:
    """A field for an amount in the currency's unit: nobody types nanos."""
    return forms.DecimalField(
        min_value=0,
        max_value=LARGEST // NANOS,
        max_digits=16,
        decimal_places=9,
        required=required,
        widget=UnfoldAdminDecimalFieldWidget,
        help_text=help_text,
    )


def typed_minor(worth: Decimal, currency: str, field: str) -> int:
    """What was typed, in the currency's minor unit; nothing of it is rounded away."""
    nanos = int(worth * NANOS)
    [minor] = to_minor([nanos], currency)
    if from_minor(minor, currency) != nanos:
        decimals = minor_exponent(currency)
        raise forms.ValidationError({field: f"{currency} has {decimals} decimals at most."})
    return minor


def shown_units(nanos: int) -> str:
    """What such a field shows."""
    return f"{Decimal(decimal(nanos)).normalize():f}"


class ReadOnly:
    """Mixed in before an admin: look, don't touch."""

    def has_add_permission(self, *args: Any) -> bool:
        """Nobody."""
        return False

    def has_change_permission(self, *args: Any) -> bool:
        """Nobody."""
        return False

    def has_delete_permission(self, *args: Any) -> bool:
        """Nobody."""
        return False


class MonthFilter(DropdownFilter):  # type: ignore[misc]
    """One month, of the last two years."""

    title, parameter_name = "month", "month"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """The newest first; one ahead, for what an early closing put off."""
        month = month_after(month_of(timezone.now()))
        for _ in range(_MONTHS_LISTED):
            yield f"{month:%Y-%m}", f"{month:%B %Y}"
            month = month_before(month)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        """Rows booked to the month."""
        if not self.value():
            return queryset
        return queryset.filter(month=parse_month(str(self.value())))


class ModelFilter(DropdownFilter):  # type: ignore[misc]
    """One of the models that have ever had a price."""

    title, parameter_name = "model", "model"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """From the small table; the ledger is not searched for its models."""
        names = PriceVersion.objects.order_by("model").values_list("model", flat=True).distinct()
        return [(name, name) for name in names]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        """Rows of the model."""
        return queryset.filter(model=self.value()) if self.value() else queryset


class StateFilter(DropdownFilter):  # type: ignore[misc]
    """How requests ended."""

    title, parameter_name = "state", "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """All there are."""
        return [(str(value), str(label)) for value, label in State.choices]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        """Rows that ended so."""
        return queryset.filter(state=self.value()) if self.value() else queryset


class OfMonth:
    """Mixed in before an admin: its rows' months, as people write them."""

    @admin.display(description="month", ordering="month")
    def booked_to(self, row: Any) -> str:
        """Like 2026-11."""
        return f"{row.month:%Y-%m}"


class Everyones(ModelAdmin):  # type: ignore[misc]
    """Rows that belong to organizations, of them all."""

    list_select_related: tuple[str, ...] = ("organization",)
    list_filter_submit = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Operators see across organizations, on purpose."""
        return super().get_queryset(request).across_organizations()  # type: ignore[no-any-return]
