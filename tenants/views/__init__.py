"""The portal's pages of organizations, for people in a browser."""

from tenants.views import (
    audit,
    invitations,
    keys,
    members,
    organizations,
    saml,
    sessions,
    settings,
    single_sign_on,
    webhooks,
)

__all__ = [
    "audit",
    "invitations",
    "keys",
    "members",
    "organizations",
    "saml",
    "sessions",
    "settings",
    "single_sign_on",
    "webhooks",
]
