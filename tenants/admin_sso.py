"""Operators confirm for which domains an organization's provider may vouch."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from tenants.admin_audit import Audited
from tenants.models import SingleSignOn


@admin.register(SingleSignOn)
class SingleSignOnAdmin(Audited, ModelAdmin):  # type: ignore[misc]
    """Owners set it up in the portal; what is changed here are the domains."""

    audit_noun = "single_sign_on"
    list_display = ("organization", "issuer", "domains", "role")
    list_select_related = ("organization",)
    search_fields = ("organization__slug", "issuer")
    fields = ("organization", "issuer", "client_id", "role", "domains")
    readonly_fields = ("organization", "issuer", "client_id", "role")

    def get_queryset(self, request: HttpRequest) -> QuerySet[SingleSignOn]:
        """Operators see everyone's."""
        return SingleSignOn.objects.across_organizations().order_by("organization__slug")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Owners do, with the secret."""
        return False
