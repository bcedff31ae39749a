"""The wiring app: it owns no models, only commands that know every room."""

from typing import Any

from allauth.account.apps import AccountConfig
from django.apps import AppConfig
from django.conf import settings
from django.core.checks import Error, Tags, register

from kit.transit import postgres_flaws, redis_flaws


class PlatformConfig(AppConfig):
    """Named `platform_config`, since `platform` is the standard library's."""

    name = "config"
    label = "platform_config"

    def ready(self) -> None:
        """Announcements go to the platform's broker, a command's too; and `check --deploy` looks at
        how servers are reached.
        """
        import celery_app  # noqa: F401

        register(servers_are_verified, Tags.security, deploy=True)


class AccountsConfig(AccountConfig):  # type: ignore[misc]
    """Allauth's accounts, whose middleware runs for pages alone: see `config.portal.Accounts`."""

    def ready(self) -> None:
        """Its checks, but not the one that wants its own middleware by name."""
        from allauth.account import checks  # noqa: F401


def servers_are_verified(**_: Any) -> list[Error]:
    """Whether whoever stands between us and another machine's PostgreSQL or Redis is kept out."""
    if settings.DEBUG:
        return []
    found = list(postgres_flaws("DATABASE_URL", settings.DATABASES["default"]))
    urls = {name: getattr(settings, name) for name in ("REDIS_URL", "CACHE_URL", "BROKER_URL")}
    for name, url in urls.items():
        found += redis_flaws(name, url)
    return [Error(said, hint=hint, id="platform.E001") for said, hint in found]
