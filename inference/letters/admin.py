"""Dead letters, as operators see them."""

from datetime import UTC, datetime
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.decorators import display

from inference.letters.models import DeadLetter
from inference.letters.shelf import replay
from kit.errors import Refused
from tenants.admin_audit import Audited
from tenants.audit import operator


@admin.register(DeadLetter)
class DeadLetterAdmin(Audited, ModelAdmin):  # type: ignore[misc]
    """Look, and replay."""

    list_display = (
        "request",
        "organization",
        "model",
        "endpoint",
        "cause",
        "attempts",
        "died_at",
        "state",
    )
    list_filter = ("model",)
    list_select_related = ("organization",)
    search_fields = ("request", "key")
    search_help_text = "Request or key id, whole"
    actions = ("replay",)
    ordering = ("-died_at",)
    fields = (
        "request",
        "organization",
        "model",
        "endpoint",
        "key",
        "cause",
        "attempts",
        "died_at",
        "replay",
        "replayed_at",
    )
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[DeadLetter]:
        """Everyone's."""
        return DeadLetter.objects.across_organizations().select_related("organization")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: they are thrown away by themselves."""
        return False

    def has_replay_permission(self, request: HttpRequest) -> bool:
        """Those who may change them."""
        return request.user.has_perm("letters.change_deadletter")

    @display(description="state", label={"replayed": "success", "set aside": "warning"})  # type: ignore[untyped-decorator]
    def state(self, letter: DeadLetter) -> str:
        """Whether it was replayed."""
        return "replayed" if letter.replay else "set aside"

    @admin.action(description="Replay: run once more", permissions=["replay"])
    def replay(self, request: HttpRequest, chosen: QuerySet[DeadLetter]) -> None:
        """Each in line once more; those that may not be say why."""
        for letter in chosen:
            try:
                fresh = replay(letter.pk, by=operator(request.user), now=datetime.now(UTC))
            except Refused as refusal:
                self.message_user(request, f"{letter}: {refusal.message}", messages.ERROR)
            else:
                self.message_user(request, f"{letter} runs again as {fresh}.", messages.SUCCESS)
