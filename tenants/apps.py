"""Who: organizations, users, memberships, API keys, limits."""

from typing import Any

from django.apps import AppConfig
from django.core.checks import Error, Tags, register

from kit import keepers
from kit.keepers import KeeperFailed


class TenantsConfig(AppConfig):
    """Lives in the public schema."""

    name = "tenants"
    label = "tenants"
    verbose_name = "Organizations"

    def ready(self) -> None:
        """Have `check --deploy` try the key-encryption key, and hear what happens to accounts."""
        register(a_keeper_answers, Tags.security, deploy=True)
        from tenants.accounts import events

        events.listen()


def a_keeper_answers(**_: Any) -> list[Error]:
    """Whether data keys can be wrapped and unwrapped."""
    try:
        keepers.check()
    except KeeperFailed as error:
        return [Error(str(error), id="tenants.E001")]
    return []
