"""Aliases, and what shadows answered, as operators see them."""

from datetime import timedelta
from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import display

from billing.admin_rows import ReadOnly
from inference.catalog import offers
from inference.catalog.models import Alias, AliasTarget, ShadowRun
from inference.catalog.shadows import COLUMNS, compared
from tenants.admin_audit import Audited

_COMPARED = timedelta(days=7)
State = ShadowRun.State
_STATES = {"answered": "success", "failed": "danger", "gave way": "warning"}


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


@admin.register(ShadowRun)
class ShadowRunAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Runs, newest first, under what they come to."""

    list_display = (
        "ran_at",
        "model",
        "shadow",
        "outcome",
        "prompt_tokens",
        "answers",
        "same_tokens",
        "alike",
        "first",
        "all_of_it",
    )
    list_filter = ("model", "shadow", "state")
    list_before_template = "admin/catalog/shadowrun/compared.html"

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The list, and the comparison above it."""
        rows = compared(since=timezone.now() - _COMPARED)
        table = {"headers": COLUMNS, "rows": [each.cells for each in rows]}
        page: HttpResponse = super().changelist_view(
            request, {**(extra_context or {}), "compared": table}
        )
        return page

    @display(description="state", label=_STATES)  # type: ignore[untyped-decorator]
    def outcome(self, run: ShadowRun) -> str:
        """In a word."""
        return run.state

    @admin.display(description="tokens", ordering="tokens")
    def answers(self, run: ShadowRun) -> str:
        """Of both."""
        return _both(run, run.tokens, run.shadow_tokens)

    @admin.display(description="first token, ms", ordering="shadow_first_ms")
    def first(self, run: ShadowRun) -> str:
        """Of both."""
        return _both(run, run.first_ms, run.shadow_first_ms)

    @admin.display(description="all, ms", ordering="shadow_total_ms")
    def all_of_it(self, run: ShadowRun) -> str:
        """Of both."""
        return _both(run, run.total_ms, run.shadow_total_ms)

    @admin.display(description="alike", ordering="likeness")
    def alike(self, run: ShadowRun) -> str:
        """As a share."""
        return f"{run.likeness:.0%}" if run.state == State.ANSWERED else ""


def _both(run: ShadowRun, model: float, shadow: float) -> str:
    """As the model → its shadow had it."""
    return f"{model:,.0f} → {shadow:,.0f}" if run.state == State.ANSWERED else f"{model:,.0f}"


def _share(target: AliasTarget, whole: int) -> str:
    if not target.model.published:
        return f"{target.model} (not published)"
    return f"{target.model} {target.weight / whole:.0%}" if whole else f"{target.model} 0%"
