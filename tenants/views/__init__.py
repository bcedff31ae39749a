"""The portal's pages of organizations, for people in a browser."""

from tenants.views import (
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
