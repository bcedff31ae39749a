"""Paths of organizations, below /api/v1/."""

from django.urls import path

from tenants.api.audit import Audit, AuditExport
from tenants.api.keys import KeyRotation, Keys, LeakReport, OneKey
from tenants.api.logins import LogInEndpoint, LogOut, Myself, Renewal

urlpatterns = [
    path("auth/token", LogInEndpoint.as_view()),
    path("auth/refresh", Renewal.as_view()),
    path("auth/logout", LogOut.as_view()),
    path("auth/me", Myself.as_view()),
    path("keys", Keys.as_view()),
    path("keys/leaked", LeakReport.as_view()),
    path("keys/<str:identifier>", OneKey.as_view()),
    path("keys/<str:identifier>/rotate", KeyRotation.as_view()),
    path("audit", Audit.as_view()),
    path("audit/export", AuditExport.as_view()),
]
