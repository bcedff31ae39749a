"""Operators' changes go into the audit log, and operators read it."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from django.contrib import admin
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import AutocompleteSelectFilter, RangeDateTimeFilter
from unfold.paginator import InfinitePaginator

from tenants import audit
from tenants.audit import Change
from tenants.models import AuditEntry, Organization

_SECRET = frozenset({"client_secret", "password", "secret_hash"})


class Audited:
    """Mixed in before an admin: what it adds, changes and deletes is recorded.

    In the same transaction, with the fields that changed as they were and as they are; the rows of
    inlines too. `audit_noun` names the kind of row where the model's name does not.
    """

    audit_noun: str = ""

    def audit_added(self, request: HttpRequest, obj: Any) -> None:
        """A row was added."""
        _record(request, f"{self._noun(obj)}.created", obj, after=_facts(obj))

    def audit_fact(self, request: HttpRequest, obj: Any, verb: str) -> None:
        """Something happened to a row that no field shows."""
        _record(request, f"{self._noun(obj)}.{verb}", obj)

    def audit_before(self, request: HttpRequest, obj: Any, change: bool) -> None:
        """How the row is; for those who save otherwise."""
        request.audited = _stored(obj) if change else {}  # type: ignore[attr-defined]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Remember the row as it was: a form may show its fields in other units."""
        self.audit_before(request, obj, change)
        super().save_model(request, obj, form, change)  # type: ignore[misc]

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """The last thing that a form saves: now all of it is known."""
        super().save_related(request, form, formsets, change)  # type: ignore[misc]
        if change:
            before, after = _linked(form)
            before |= audit.plain(request.audited)  # type: ignore[attr-defined]
            after |= audit.plain(_stored(form.instance))
            self._audit_changed(request, form.instance, before, after)
        else:
            self.audit_added(request, form.instance)
        for formset in formsets:
            self._audit_formset(request, formset)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """One row."""
        with transaction.atomic():
            _record(request, f"{self._noun(obj)}.deleted", obj, before=_facts(obj))
            super().delete_model(request, obj)  # type: ignore[misc]

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Those that were ticked, each by itself: a row's `delete` lets every process know."""
        with transaction.atomic():
            for obj in queryset:
                self.delete_model(request, obj)

    def _audit_changed(
        self, request: HttpRequest, obj: Model, before: dict[str, Any], after: dict[str, Any]
    ) -> None:
        before, after = audit.differences(before, after)
        if after:
            _record(request, f"{self._noun(obj)}.changed", obj, before, after)

    def _audit_formset(self, request: HttpRequest, formset: Any) -> None:
        for obj in formset.new_objects:
            _record(request, f"{_name(obj)}.created", obj, after=_facts(obj))
        changed = [obj for obj, _ in formset.changed_objects]
        for form in formset.initial_forms:
            if form.instance in changed:
                before, after = audit.differences(*_edited(form, form.changed_data))
                _record(request, f"{_name(form.instance)}.changed", form.instance, before, after)
        for obj in formset.deleted_objects:
            _record(request, f"{_name(obj)}.deleted", obj, before=_facts(obj))

    def _noun(self, obj: Model) -> str:
        return self.audit_noun or _name(obj)


@admin.register(AuditEntry)
class AuditEntryAdmin(ModelAdmin):  # type: ignore[misc]
    """Everyone's entries, to read."""

    list_display = ("at", "action", "target", "organization", "who", "address")
    list_filter = (
        ("organization", AutocompleteSelectFilter),
        ("at", RangeDateTimeFilter),
    )
    list_filter_submit = True
    list_select_related = ("organization",)
    search_fields = ("action", "target", "actor", "actor_name", "address")
    search_help_text = "What, on what, who, or from where"
    date_hierarchy = "at"
    ordering = ("-id",)
    paginator = InfinitePaginator
    show_full_result_count = False
    fieldsets = (
        (None, {"fields": ("at", "action", "target", "organization")}),
        ("Who", {"fields": ("actor", "actor_name", "address", "agent")}),
        ("What", {"fields": ("was", "became")}),
        ("Chain", {"fields": ("chain", "sequence", "previous", "hash")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[AuditEntry]:
        """Of all organizations."""
        return AuditEntry.objects.across_organizations()

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody."""
        return False

    @admin.display(description="who")
    def who(self, entry: AuditEntry) -> str:
        """By name, where there is one."""
        return entry.actor_name or entry.actor

    @admin.display(description="before")
    def was(self, entry: AuditEntry) -> str:
        """The fields as they were."""
        return _shown(entry.before)

    @admin.display(description="after")
    def became(self, entry: AuditEntry) -> str:
        """The fields as they became."""
        return _shown(entry.after)


def _record(
    request: HttpRequest,
    action: str,
    obj: Model,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    whose = obj.pk if isinstance(obj, Organization) else getattr(obj, "organization_id", None)
    target = f"{action.split('.', maxsplit=1)[0]}:{getattr(obj, 'slug', obj.pk)}"
    change = Change(action, target, before, after)
    audit.record(change, by=audit.operator(request.user), organization=whose)


def _stored(obj: Model) -> dict[str, Any]:
    """The row's fields as the database has them."""
    return _facts(type(obj)._base_manager.get(pk=obj.pk))


def _linked(form: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The many-to-many fields of a form that were changed."""
    many = {field.name for field in form.instance._meta.many_to_many}
    return _edited(form, [name for name in form.changed_data if name in many])


def _edited(form: Any, names: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    before = {name: form.initial.get(name) for name in names}
    return audit.plain(before), audit.plain({name: form.cleaned_data[name] for name in names})


def _facts(obj: Model) -> dict[str, Any]:
    fields = [field.attname for field in obj._meta.concrete_fields if field.name not in _SECRET]
    return {name: getattr(obj, name) for name in fields}


def _name(obj: Model) -> str:
    return obj._meta.model_name or ""


def _shown(fields: Mapping[str, Any]) -> str:
    return format_html("<pre>{}</pre>", orjson.dumps(fields, option=orjson.OPT_INDENT_2).decode())
