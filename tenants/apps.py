"""Who: organizations, users, memberships, API keys, limits."""

from django.apps import AppConfig


class TenantsConfig(AppConfig):
    """Lives in the public schema."""

    name = "tenants"
    label = "tenants"
    verbose_name = "Organizations"
