"""The wiring app: it owns no models, only commands that know every room."""

from allauth.account.apps import AccountConfig
from django.apps import AppConfig


class PlatformConfig(AppConfig):
    """Named `platform_config`, since `platform` is the standard library's."""

    name = "config"
    label = "platform_config"


class AccountsConfig(AccountConfig):  # type: ignore[misc]
    """Allauth's accounts, whose middleware runs for pages alone: see `config.portal.Accounts`."""

    def ready(self) -> None:
        """Its checks, but not the one that wants its own middleware by name."""
        from allauth.account import checks  # noqa: F401
