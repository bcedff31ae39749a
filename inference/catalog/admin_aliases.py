"""Names that stand for models, as operators see them."""

from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline

from inference.catalog import offers
from inference.catalog.models import Alias, AliasTarget
from tenants.admin_audit import Audited


class TargetInline(TabularInline):  # type: ignore[misc]
    """The models that an alias stands for."""

    model = AliasTarget
    fields = ("model", "weight")
    extra = 1
    tab = False


@admin.register(Alias)
class AliasAdmin(Audited, ModelAdmin):  # type: ignore[misc]
    """Names, and the shares of the models behind them: a rollout is a change of weights."""

    list_display = ("name", "stands_for")
    search_fields = ("name",)
    search_help_text = "Name"
    inlines = (TargetInline,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Alias]:
        """With what they stand for."""
        return Alias.objects.prefetch_related("targets__model")

    @admin.display(description="stands for")
    def stands_for(self, alias: Alias) -> str:
        """Each model with its share; those that are not published have none."""
        targets = list(alias.targets.all())
        whole = sum(each.weight for each in targets if each.model.published)
        return ", ".join(_share(each, whole) for each in targets) or "nothing"

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Now all of it is known: say what requests by this name get."""
        super().save_related(request, form, formsets, change)
        alias = form.instance
        transaction.on_commit(offers.forget)
        self.message_user(
            request, f"{alias}: every process knows within 5 seconds.", messages.SUCCESS
        )
        if not alias.targets.filter(model__published=True, weight__gt=0).exists():
            self.message_user(
                request,
                f"{alias} stands for no published model: requests by this name are refused.",
                messages.WARNING,
            )

    def delete_model(self, request: HttpRequest, obj: Alias) -> None:
        """The name stands for nothing more."""
        super().delete_model(request, obj)
        transaction.on_commit(offers.forget)


def _share(target: AliasTarget, whole: int) -> str:
    if not target.model.published:
        return f"{target.model} (not published)"
    return f"{target.model} {target.weight / whole:.0%}" if whole else f"{target.model} 0%"
