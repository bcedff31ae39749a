"""What shadows answered, as operators see it."""

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.decorators import display

from billing.admin_rows import ReadOnly
from inference.catalog.models import ShadowRun
from inference.catalog.shadows import COLUMNS, compared

_COMPARED = timedelta(days=7)
State = ShadowRun.State
_STATES = {"answered": "success", "failed": "danger", "gave way": "warning"}


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
