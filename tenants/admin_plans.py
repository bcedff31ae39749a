"""Plans and limits on single models, as operators see them."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline

from tenants.admin_audit import Audited
from tenants.models import ModelLimit, Plan

LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrent_requests")


class ModelLimitFormSet(forms.BaseInlineFormSet):  # type: ignore[type-arg]
    """Knows its rows among everyone's: operators see all."""

    def add_fields(self, form: Any, index: int | None) -> None:
        """Django looks the rows up through the manager, which wants a scope."""
        super().add_fields(form, index)
        form.fields["id"].queryset = ModelLimit.objects.across_organizations()


class ModelLimitsInline(TabularInline):  # type: ignore[misc]
    """Limits on single models."""

    model = ModelLimit
    formset = ModelLimitFormSet
    fields = ("model", *LIMITS)
    extra = 0
    tab = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[ModelLimit]:
        """Operators see everyone's."""
        return ModelLimit.objects.across_organizations()


@admin.register(Plan)
class PlanAdmin(Audited, ModelAdmin):  # type: ignore[misc]
    """Limits that many organizations share, and whether their answers are cached."""

    list_display = ("name", *LIMITS, "caching", "organizations")
    search_fields = ("name",)
    fieldsets = (
        (None, {"fields": ("name", *LIMITS)}),
        ("Answers given again", {"fields": ("caching",)}),
    )
    inlines = (ModelLimitsInline,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Plan]:
        """With what the list counts."""
        return Plan.objects.annotate(count=Count("organizations")).order_by("name")

    @admin.display(ordering="count")
    def organizations(self, plan: Any) -> int:
        """How many are on it."""
        return int(plan.count)
