"""Paths of organizations, below /api/v1/."""

from django.urls import path

from tenants.api.audit import Audit, AuditExport
from tenants.api.keys import KeyRotation, Keys, LeakReport, OneKey

urlpatterns = [
    path("keys", Keys.as_view()),
    path("keys/leaked", LeakReport.as_view()),
    path("keys/<str:identifier>", OneKey.as_view()),
    path("keys/<str:identifier>/rotate", KeyRotation.as_view()),
    path("audit", Audit.as_view()),
    path("audit/export", AuditExport.as_view()),
]
