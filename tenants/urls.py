"""Paths of organizations, below /api/v1/."""

from django.urls import path

from tenants.api.audit import Audit, AuditExport
from tenants.api.keys import KeyRotation, Keys, LeakReport, OneKey
from tenants.api.logins import LogInEndpoint, LogOut, Myself, Renewal
from tenants.api.members import Leave, Members, OneMember, Ownership
from tenants.api.retention import RetentionEndpoint

urlpatterns = [
    path("auth/token", LogInEndpoint.as_view()),
    path("auth/refresh", Renewal.as_view()),
    path("auth/logout", LogOut.as_view()),
    path("auth/me", Myself.as_view()),
    path("keys", Keys.as_view()),
    path("keys/leaked", LeakReport.as_view()),
    path("keys/<str:identifier>", OneKey.as_view()),
    path("keys/<str:identifier>/rotate", KeyRotation.as_view()),
    path("members", Members.as_view()),
    path("members/leave", Leave.as_view()),
    path("members/<int:user>", OneMember.as_view()),
    path("ownership", Ownership.as_view()),
    path("retention", RetentionEndpoint.as_view()),
    path("audit", Audit.as_view()),
    path("audit/export", AuditExport.as_view()),
]
