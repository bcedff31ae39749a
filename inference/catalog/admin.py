"""The models on offer, as operators keep them."""

from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.decorators import display

from billing.models import PriceVersion
from inference.catalog import offers
from inference.catalog.admin_aliases import AliasAdmin
from inference.catalog.admin_shadows import ShadowRunAdmin
from inference.catalog.models import Model
from tenants.admin_audit import Audited

__all__ = ["AliasAdmin", "ModelAdminOfCatalog", "ShadowRunAdmin"]

_COLORS = {"published": "success", "draft": "warning"}


@admin.register(Model)
class ModelAdminOfCatalog(Audited, ModelAdmin):  # type: ignore[misc]
    """A model that was used is taken back, not deleted: history and the ledger name it."""

    list_display = (
        "name",
        "title",
        "state",
        "backend",
        "device",
        "dedicated_to",
        "fallback",
        "shadowed_by",
        "tokens_of_context",
        "version",
        "created_at",
    )
    list_filter = ("published", "backend", "device")
    list_select_related = ("dedicated_to", "fallback", "shadow")
    search_fields = ("name", "title", "owner", "dedicated_to__name")
    search_help_text = "Name, title, owner or whose alone it is"
    autocomplete_fields = ("dedicated_to",)
    readonly_fields = ("created_at",)
    actions = ("publish", "take_back")
    fieldsets = (
        (None, {"fields": ("name", "title", "owner", "published", "created_at")}),
        ("Runs as", {"fields": ("backend", "folder", "adapter", "version", "device", "context")}),
        ("Who may use it, and how", {"fields": ("plans", "dedicated_to", "caching")}),
        ("While it is not healthy", {"fields": ("fallback",)}),
        (
            "Shadow",
            {
                "fields": ("shadow", "shadow_percent"),
                "description": "Answers that nobody gets and nobody pays, made while nothing else "
                "runs; “Shadow runs” compares them.",
            },
        ),
        (
            "At another server",
            {
                "fields": ("remote_url", "remote_model", "remote_secret"),
                "description": "Only for a remote backend.",
            },
        ),
        (
            "Where a request does not say",
            {"fields": ("default_max_tokens", "default_temperature", "default_top_p")},
        ),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Requests, prices and queues go by the name: it stays."""
        return (*self.readonly_fields, *(("name",) if obj else ()))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never: take it back."""
        return False

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        """Save; say what a published model still lacks."""
        super().save_model(request, obj, form, change)
        self._changed(request, [obj])

    @display(label=_COLORS)  # type: ignore[untyped-decorator]
    def state(self, model: Model) -> str:
        """Whether requests may name it."""
        return "published" if model.published else "draft"

    @admin.display(description="context", ordering="context")
    def tokens_of_context(self, model: Model) -> str:
        """For people."""
        return f"{model.context:,} tokens"

    @admin.display(description="shadow", ordering="shadow__name")
    def shadowed_by(self, model: Model) -> str:
        """And the share of its requests."""
        return f"{model.shadow} {model.shadow_percent:g}%" if model.shadow else ""

    @admin.action(description="Publish", permissions=["change"])
    def publish(self, request: HttpRequest, chosen: QuerySet[Model]) -> None:
        """Let requests name them."""
        self._publish(request, chosen, True)

    @admin.action(description="Take back: refuse new requests", permissions=["change"])
    def take_back(self, request: HttpRequest, chosen: QuerySet[Model]) -> None:
        """What runs goes on."""
        self._publish(request, chosen, False)

    def _publish(self, request: HttpRequest, chosen: QuerySet[Model], published: bool) -> None:
        with transaction.atomic():
            for model in chosen.exclude(published=published):
                self.audit_fact(request, model, "published" if published else "taken_back")
            chosen.update(published=published)
        self._changed(request, list(chosen))

    def _changed(self, request: HttpRequest, models: list[Model]) -> None:
        transaction.on_commit(offers.forget)
        names = ", ".join(model.name for model in models)
        self.message_user(
            request, f"{names}: every process knows within 5 seconds.", messages.SUCCESS
        )
        for model in models:
            for lack in _lacks(model) if model.published else ():
                self.message_user(request, f"{model.name} {lack}", messages.WARNING)


def _lacks(model: Model) -> list[str]:
    """What a published model needs besides its row."""
    lacks = []
    if not PriceVersion.objects.filter(model=model.name).exists():
        lacks.append("has no price: its requests are refused until it has one.")
    if model.fallback is not None and not model.fallback.published:
        lacks.append(
            f"has a fall-back, {model.fallback}, that is not published: it is passed over."
        )
    if model.shadow is not None and model.shadow_percent and not model.shadow.is_prepared:
        lacks.append(f"has a shadow, {model.shadow}, that is not prepared: nothing runs it.")
    if (
        model.adapter
        and not (settings.MODELS_DIR / model.adapter / "adapter_config.json").is_file()
    ):
        lacks.append(f"has no adapter: there is no {model.adapter}/adapter_config.json.")
    if model.backend == Model.Backend.REMOTE and not model.folder:
        return lacks
    if not (settings.MODELS_DIR / model.folder / "manifest.json").is_file():
        lacks.append(f"is not prepared: there is no {model.folder}/manifest.json in MODELS_DIR.")
    return lacks
