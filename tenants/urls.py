"""Paths of organizations, below /api/v1/."""

from allauth.socialaccount.providers.saml import views as saml
from django.urls import path

from tenants import views
from tenants.api.audit import Audit, AuditExport
from tenants.api.certificates import CertificateKeys
from tenants.api.invitations import Acceptance, Invitations, OneInvitation, Resending
from tenants.api.keys import KeyRotation, Keys, LeakReport, OneKey
from tenants.api.logins import LogInEndpoint, LogOut, Myself, Renewal
from tenants.api.members import Leave, Members, OneMember, Ownership
from tenants.api.retention import RetentionEndpoint
from tenants.api.sessions import OneSession, Sessions
from tenants.api.webhooks import Deliveries, OneWebhook, Replay, WebhookRotation, Webhooks

portal = [
    path("keys", views.keys.Keys.as_view(), name="keys"),
    path("keys/<str:identifier>/rotate", views.keys.KeyRotation.as_view(), name="key-rotate"),
    path("keys/<str:identifier>/revoke", views.keys.KeyRevocation.as_view(), name="key-revoke"),
    path("webhooks", views.webhooks.Webhooks.as_view(), name="webhooks"),
    path("webhooks/<uuid:identifier>", views.webhooks.OneWebhook.as_view(), name="webhook"),
    path(
        "webhooks/<uuid:identifier>/rotate",
        views.webhooks.WebhookRotation.as_view(),
        name="webhook-rotate",
    ),
    path(
        "webhooks/<uuid:identifier>/remove",
        views.webhooks.WebhookRemoval.as_view(),
        name="webhook-remove",
    ),
    path(
        "webhooks/<uuid:identifier>/deliveries/<uuid:event>/replay",
        views.webhooks.Replay.as_view(),
        name="webhook-replay",
    ),
    path("members", views.members.Members.as_view(), name="members"),
    path("members/leave", views.members.Leaving.as_view(), name="leave"),
    path("members/ownership", views.members.Ownership.as_view(), name="ownership"),
    path("members/<int:user>/role", views.members.MemberRole.as_view(), name="member-role"),
    path("members/<int:user>/remove", views.members.MemberRemoval.as_view(), name="member-remove"),
    path(
        "invitations/<int:invitation>/resend",
        views.members.InvitationResending.as_view(),
        name="invitation-resend",
    ),
    path(
        "invitations/<int:invitation>/withdraw",
        views.members.InvitationWithdrawal.as_view(),
        name="invitation-withdraw",
    ),
    path("audit", views.audit.AuditLog.as_view(), name="audit"),
    path("audit/export", views.audit.AuditExport.as_view(), name="audit-export"),
    path("making", views.organizations.Making.as_view(), name="making"),
    path("settings", views.settings.Settings.as_view(), name="settings"),
    path(
        "settings/single-sign-on",
        views.settings.SingleSignOnSetting.as_view(),
        name="single-sign-on",
    ),
    path("settings/two-factors", views.settings.TwoFactors.as_view(), name="two-factors"),
    path("settings/delete", views.settings.Deletion.as_view(), name="delete"),
    path("settings/restore", views.settings.Restoration.as_view(), name="restore"),
]
"""Below /o/<slug>/."""
pages = [
    path("accounts/sessions/", views.sessions.Sessions.as_view(), name="sessions"),
    path("accounts/acting/stop/", views.sessions.Acting.as_view(), name="acting-stop"),
    path("accounts/sso/", views.single_sign_on.SingleSignOnDoor.as_view(), name="sso"),
    path(
        "accounts/sso/<slug:organization>/",
        views.single_sign_on.Onward.as_view(),
        name="sso-onward",
    ),
    path("accounts/saml/<slug:organization_slug>/login/", saml.login, name="saml_login"),
    path("accounts/saml/<slug:organization_slug>/metadata/", saml.metadata, name="saml_metadata"),
    path(
        "accounts/saml/<slug:organization_slug>/acs/", views.saml.Answer.as_view(), name="saml_acs"
    ),
    path(
        "accounts/saml/<slug:organization_slug>/acs/finish/",
        views.saml.Finish.as_view(),
        name="saml_finish_acs",
    ),
    path(
        "accounts/saml/<slug:organization_slug>/sls/", views.saml.LogOut.as_view(), name="saml_sls"
    ),
    path(
        "accounts/oidc/<slug:provider_id>/login/",
        views.single_sign_on.Away.as_view(),
        name="openid_connect_login",
    ),
    path(
        "accounts/oidc/<slug:provider_id>/login/callback/",
        views.single_sign_on.Back.as_view(),
        name="openid_connect_callback",
    ),
    path(
        "accounts/github/login/",
        views.single_sign_on.AwayToGitHub.as_view(),
        name="github_login",
    ),
    path(
        "accounts/github/login/callback/",
        views.single_sign_on.BackFromGitHub.as_view(),
        name="github_callback",
    ),
    path("o/", views.organizations.Organizations.as_view(), name="organizations"),
    path("invitations/<str:token>", views.invitations.AnInvitation.as_view(), name="invitation"),
]
urlpatterns = [
    path("auth/token", LogInEndpoint.as_view()),
    path("auth/refresh", Renewal.as_view()),
    path("auth/logout", LogOut.as_view()),
    path("auth/sessions", Sessions.as_view()),
    path("auth/sessions/<str:identifier>", OneSession.as_view()),
    path("auth/me", Myself.as_view()),
    path("auth/invitations", Acceptance.as_view()),
    path("webhooks", Webhooks.as_view()),
    path("webhooks/<uuid:identifier>", OneWebhook.as_view()),
    path("webhooks/<uuid:identifier>/rotate", WebhookRotation.as_view()),
    path("webhooks/<uuid:identifier>/deliveries", Deliveries.as_view()),
    path("webhooks/<uuid:identifier>/deliveries/<uuid:event>/replay", Replay.as_view()),
    path("keys", Keys.as_view()),
    path("keys/leaked", LeakReport.as_view()),
    path("keys/<str:identifier>", OneKey.as_view()),
    path("keys/<str:identifier>/rotate", KeyRotation.as_view()),
    path("invitations", Invitations.as_view()),
    path("invitations/<int:invitation>", OneInvitation.as_view()),
    path("invitations/<int:invitation>/resend", Resending.as_view()),
    path("members", Members.as_view()),
    path("members/leave", Leave.as_view()),
    path("members/<int:user>", OneMember.as_view()),
    path("ownership", Ownership.as_view()),
    path("retention", RetentionEndpoint.as_view()),
    path("certificates/keys", CertificateKeys.as_view()),
    path("audit", Audit.as_view()),
    path("audit/export", AuditExport.as_view()),
]
