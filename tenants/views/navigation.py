"""What stands in an organization's navigation, for whom, in which order."""

from collections.abc import Iterator
from dataclasses import dataclass

from django.urls import NoReverseMatch, reverse

from tenants.auth import Caller
from tenants.roles import Action


@dataclass(frozen=True, slots=True)
class Place:
    """A page of `/o/<slug>/`: its title, its name among the URLs, and the action it begins with."""

    title: str
    name: str
    action: Action


PLACES = (
    Place("Overview", "overview", Action.READ_USAGE),
    Place("API keys", "keys", Action.READ_KEYS),
    Place("Webhooks", "webhooks", Action.MANAGE_WEBHOOKS),
    Place("Members", "members", Action.READ_MEMBERS),
    Place("Billing", "billing", Action.READ_USAGE),
    Place("Audit log", "audit", Action.READ_AUDIT),
    Place("Settings", "settings", Action.READ_MEMBERS),
)


@dataclass(frozen=True, slots=True)
class Link:
    """A place as this caller sees it."""

    title: str
    address: str
    is_here: bool


def links(caller: Caller, *, here: str) -> Iterator[Link]:
    """Those the caller may open; a place that no room serves is left out."""
    for place in PLACES:
        try:
            address = reverse(place.name, args=[caller.slug])
        except NoReverseMatch:
            continue
        if caller.may(place.action):
            yield Link(place.title, address, place.name == here)
