"""Paths of organizations, below /api/v1/."""

from django.urls import path

from tenants.api.audit import Audit, AuditExport

urlpatterns = [
    path("audit", Audit.as_view()),
    path("audit/export", AuditExport.as_view()),
]
