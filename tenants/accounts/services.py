"""Services elsewhere by whose accounts anybody may log in: Google, GitHub, any OpenID provider.

The operator names them in the settings. They are told from organizations' own providers by their
identifier, which has an underscore: no slug has one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

GITHUB = "github"
"""Speaks OAuth 2.0 of its own."""
APP = "services"
"""By what name who connects one has to have shown lately that the account is theirs."""
_PREFIX = "social_"


@dataclass(frozen=True, slots=True)
class Service:
    """As it is set up; `issuer` is of OpenID providers."""

    identifier: str
    name: str
    issuer: str
    client_id: str
    client_secret: str


def known() -> list[Service]:
    """All of them, as the settings have them."""
    return [
        Service(
            GITHUB if each["id"] == GITHUB else _PREFIX + each["id"],
            each["name"],
            each["issuer"],
            each["client_id"],
            each["client_secret"],
        )
        for each in settings.SOCIAL_LOGINS
    ]


def find(identifier: str) -> Service | None:
    """The one of that identifier."""
    return next((each for each in known() if each.identifier == identifier), None)


def is_one(identifier: str) -> bool:
    """Whether it names a service, set up or not, rather than an organization's provider."""
    return identifier == GITHUB or identifier.startswith(_PREFIX)


@register()
def whole(**_: object) -> Iterable[CheckMessage]:
    """Each service in the settings has what a log-in by it needs."""
    for each in settings.SOCIAL_LOGINS:
        needed = ["client_id", "client_secret", *([] if each["id"] == GITHUB else ["issuer"])]
        for name in needed:
            if not each[name]:
                variable = f"SOCIAL_{each['id']}_{name}".upper()
                yield Error(
                    f"SOCIAL_LOGINS names {each['id']!r}, but {variable} is not set.",
                    hint="Set it, or take the service out of SOCIAL_LOGINS.",
                    id="tenants.E002",
                )
        if not each["id"].isalnum() or not each["id"].islower():
            yield Error(
                f"SOCIAL_LOGINS: {each['id']!r} is no name of a service.",
                hint="Use lower-case letters and digits.",
                id="tenants.E003",
            )
