"""Every page for every kind of person: who gets in, and what the others are told.

A page without a row here fails the suite.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from tenants import organizations
from tenants.models import Invitation, Organization, Role, User
from tests import factories
from tests.tenants.test_doors import MANAGE, MEMBERS, MONEY, NO_REQUEST, WORK, routes

NOW = datetime.now(UTC)
OWNER = ("owner",)
BELOW = "o/<slug:organization>/"

pytestmark = [pytest.mark.usefixtures("redis"), pytest.mark.django_db]


@dataclass(frozen=True)
class Door:
    """A method of a page of an organization: what those get who may (`opens`), who they are, and
    whether it is served while the organization is suspended. 302 leads back to the page."""

    method: str
    route: str
    opens: int
    roles: tuple[str, ...]
    form: dict[str, str] = field(default_factory=dict, hash=False)
    while_suspended: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.route}"


DOORS = (
    Door("GET", "", 200, MEMBERS),
    Door("GET", "making", 302, MEMBERS),
    Door("POST", "making", 302, MEMBERS),
    Door("GET", "keys", 200, WORK),
    Door("POST", "keys", 200, WORK, {"name": "x", "environment": "live", "scopes": "usage"}),
    Door("POST", "keys/<str:identifier>/rotate", 200, MANAGE, {"grace": "0"}),
    Door("POST", "keys/<str:identifier>/revoke", 302, MANAGE),
    Door("GET", "webhooks", 200, WORK),
    Door("POST", "webhooks", 200, WORK, {"url": "https://x.example/", "events": "key.leaked"}),
    Door("GET", "webhooks/<uuid:identifier>", 404, WORK),
    Door("POST", "webhooks/<uuid:identifier>", 404, WORK),
    Door("POST", "webhooks/<uuid:identifier>/rotate", 404, WORK),
    Door("POST", "webhooks/<uuid:identifier>/remove", 404, WORK),
    Door("POST", "webhooks/<uuid:identifier>/deliveries/<uuid:event>/replay", 404, WORK),
    Door("GET", "members", 200, MEMBERS),
    Door("POST", "members", 302, MANAGE, {"email": "new@example.com", "role": "viewer"}),
    Door("POST", "members/leave", 302, MEMBERS, while_suspended=True),
    Door("POST", "members/ownership", 302, OWNER, {"user": "0"}),
    Door("POST", "members/<int:user>/role", 302, MANAGE, {"role": "viewer"}),
    Door("POST", "members/<int:user>/remove", 302, MANAGE),
    Door("POST", "invitations/<int:invitation>/resend", 302, MANAGE),
    Door("POST", "invitations/<int:invitation>/withdraw", 302, MANAGE),
    Door("GET", "audit", 200, MANAGE),
    Door("GET", "audit/export", 200, MANAGE),
    Door("GET", "billing", 200, MEMBERS, while_suspended=True),
    Door("POST", "billing/plan", 302, MONEY, while_suspended=True),
    Door("POST", "billing/plan/cancel", 302, MONEY, while_suspended=True),
    Door("POST", "billing/checkouts", 302, MONEY, {"kind": "card"}, while_suspended=True),
    Door("GET", "billing/checkouts/<uuid:identifier>", 404, MONEY, while_suspended=True),
    Door("POST", "billing/auto-top-up", 302, MONEY, while_suspended=True),
    Door("POST", "billing/auto-top-up/stop", 302, MONEY, while_suspended=True),
    Door("GET", "billing/invoices/<str:number>.pdf", 404, MEMBERS, while_suspended=True),
    Door("GET", "billing/invoices/<str:number>.csv", 404, MEMBERS, while_suspended=True),
    Door("GET", "billing/invoices/<str:number>.ndjson", 404, MEMBERS, while_suspended=True),
    Door("GET", "billing/merkle.py", 200, MEMBERS, while_suspended=True),
    Door("POST", "billing/details", 302, MONEY, while_suspended=True),
    Door("POST", "billing/budgets", 302, MONEY, while_suspended=True),
    Door("POST", "billing/budgets/<int:identifier>/remove", 404, MONEY, while_suspended=True),
    Door("GET", "settings", 200, MEMBERS, while_suspended=True),
    Door("POST", "settings", 302, MANAGE, {"name": "x"}, while_suspended=True),
    Door(
        "POST",
        "settings/single-sign-on",
        302,
        OWNER,
        {"issuer": "https://id.example", "client_id": "x", "client_secret": "y", "role": "viewer"},
        while_suspended=True,
    ),
    Door("POST", "settings/two-factors", 302, OWNER, {"required": "1"}, while_suspended=True),
    Door("POST", "settings/delete", 302, OWNER, {"slug": "acme"}, while_suspended=True),
    Door("POST", "settings/restore", 302, OWNER, while_suspended=True),
)
PERSONS = {
    ("GET", "o/"): 200,
    ("GET", "organizations/new"): 200,
    ("POST", "organizations/new"): 200,
}
"""For whoever is logged in; what an empty form gets."""
OPEN = {
    ("GET", "invitations/<str:token>"): 404,
    ("POST", "invitations/<str:token>"): 302,
}
"""For everyone; what a token gets that is nobody's."""
ACCOUNTS = {
    "login/": (200, 302),
    "login/code/confirm/": (302, 302),
    "logout/": (302, 200),
    "inactive/": (200, 200),
    "signup/": (200, 302),
    "reauthenticate/": (302, 200),
    "email/": (302, 200),
    "confirm-email/": (200, 200),
    r"^confirm-email/(?P<key>[-:\w]+)/$": (200, 200),
    "password/change/": (302, 200),
    "password/set/": (302, 302),
    "password/reset/": (200, 200),
    "password/reset/done/": (200, 200),
    r"^password/reset/key/(?P<uidb36>[0-9A-Za-z]+)-(?P<key>.+)/$": (200, 200),
    "password/reset/key/done/": (200, 200),
    "sessions/": (302, 200),
    "acting/stop/": (405, 405),
    "sso/": (200, 200),
    "sso/<slug:organization>/": (302, 302),
    "saml/<slug:organization_slug>/login/": (404, 404),
    "saml/<slug:organization_slug>/metadata/": (404, 404),
    "saml/<slug:organization_slug>/acs/": (405, 405),
    "saml/<slug:organization_slug>/acs/finish/": (404, 404),
    "saml/<slug:organization_slug>/sls/": (404, 404),
    "oidc/<slug:provider_id>/login/": (404, 404),
    "oidc/<slug:provider_id>/login/callback/": (404, 404),
    "github/login/": (404, 404),
    "github/login/callback/": (404, 404),
    "3rdparty/": (302, 200),
    "3rdparty/signup/": (302, 302),
    "3rdparty/login/cancelled/": (200, 200),
    "3rdparty/login/error/": (401, 401),
    "2fa/": (302, 200),
    "2fa/authenticate/": (302, 302),
    "2fa/reauthenticate/": (302, 302),
    "2fa/totp/activate/": (302, 302),
    "2fa/totp/deactivate/": (302, 404),
    "2fa/recovery-codes/": (302, 404),
    "2fa/recovery-codes/generate/": (302, 302),
    "2fa/recovery-codes/download/": (302, 404),
    "2fa/webauthn/": (302, 200),
    "2fa/webauthn/add/": (302, 302),
    "2fa/webauthn/reauthenticate/": (302, 302),
    "2fa/webauthn/login/": (302, 302),
    "2fa/webauthn/keys/<int:pk>/remove/": (302, 302),
    "2fa/webauthn/keys/<int:pk>/edit/": (302, 302),
}
"""Allauth's, which concern oneself alone: what nobody gets, and a person who logged in long ago."""


_KEYED = {
    "oidc/<slug:provider_id>/login/": "oidc/acme/login/",
    "oidc/<slug:provider_id>/login/callback/": "oidc/acme/login/callback/",
    r"^confirm-email/(?P<key>[-:\w]+)/$": "confirm-email/x:y/",
    r"^password/reset/key/(?P<uidb36>[0-9A-Za-z]+)-(?P<key>.+)/$": "password/reset/key/1-x/",
}


def pages() -> Iterator[tuple[str, str]]:
    for method, route, _ in routes():
        if route.startswith(("o/", "organizations/", "invitations/")):
            yield method, route


def test_every_page_has_a_row() -> None:
    rows = [(door.method, BELOW + door.route) for door in DOORS]
    assert sorted([*rows, *PERSONS, *OPEN]) == sorted(pages())
    accounts = {route for _, route, _ in routes() if route.startswith("accounts/")}
    assert sorted(f"accounts/{route}" for route in ACCOUNTS) == sorted(accounts)


@pytest.fixture(autouse=True)
def _no_static_files(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path


@pytest.fixture
def people(acme: Organization, bob: User, charlie: User) -> dict[str, User]:
    """A member a role, and two who are none."""
    found = {"bob": bob, "charlie": charlie}
    for role in Role:
        found[role.value] = factories.user(role.value)
        factories.member(found[role.value], acme, role)
    return found


def ask(door: Door, client: Client, acme: Organization) -> int:
    """What the door answers; a key and an invitation are new for each who asks."""
    key, _ = factories.api_key(acme)
    Invitation.objects.for_org(acme).delete()
    invitation = Invitation.objects.create(
        organization=acme,
        email="ivy@example.com",
        token_hash="x",
        created_at=NOW,
        sent_at=NOW,
        expires_at=NOW,
    )
    path = (
        f"/o/acme/{door.route}".replace("<str:identifier>", key.pk)
        .replace("<int:invitation>", str(invitation.pk))
        .replace("<int:user>", "0")
        .replace("<uuid:identifier>", NO_REQUEST)
        .replace("<uuid:event>", NO_REQUEST)
        .replace("<int:identifier>", "0")
        .replace("<str:number>", "none")
    )
    return client.generic(
        door.method,
        path,
        "&".join(f"{name}={value}" for name, value in door.form.items()),
        content_type="application/x-www-form-urlencoded",
    ).status_code


@pytest.mark.parametrize("door", DOORS, ids=str)
def test_a_page_opens_to_those_who_may(
    door: Door, people: dict[str, User], acme: Organization, client: Client
) -> None:
    found: dict[str, int] = {"nobody": ask(door, client, acme)}
    for name, person in people.items():
        client.force_login(person)
        found[name] = ask(door, client, acme)
        acme.refresh_from_db()
        organizations.reinstate(acme, now=NOW)
    assert found == {
        "nobody": 302,
        "bob": 404,
        "charlie": 404,
        # Nobody has the id 0, which is told to those who may change members.
        **{role: _opens(door) if role in door.roles else 403 for role in MEMBERS},
    }


def _opens(door: Door) -> int:
    return 404 if "<int:user>" in door.route or "ownership" in door.route else door.opens


@pytest.mark.parametrize("door", DOORS, ids=str)
def test_a_suspended_organizations_pages_are_shut(
    door: Door, people: dict[str, User], acme: Organization, client: Client
) -> None:
    organizations.suspend(acme, now=NOW, reason="unpaid")
    client.force_login(people["owner"])
    assert ask(door, client, acme) == (door.opens if door.while_suspended else 403)


@pytest.mark.parametrize(("method", "route"), PERSONS, ids=str)
def test_a_persons_page_is_for_whoever_is_logged_in(
    method: str, route: str, charlie: User, client: Client
) -> None:
    answer = client.generic(method, f"/{route}")
    assert answer.status_code == 302
    assert answer["Location"] == f"/accounts/login/?next=/{route}"
    client.force_login(charlie)
    assert client.generic(method, f"/{route}").status_code == PERSONS[method, route]


@pytest.mark.parametrize(("method", "route"), OPEN, ids=str)
def test_a_token_that_is_nobodys_opens_nothing(
    method: str, route: str, charlie: User, client: Client
) -> None:
    assert client.generic(method, "/invitations/x").status_code == OPEN[method, route]
    client.force_login(charlie)
    assert client.generic(method, "/invitations/x").status_code == 404


@pytest.mark.parametrize("route", ACCOUNTS)
def test_pages_of_accounts_show_oneself_alone(route: str, client: Client) -> None:
    path = _KEYED.get(route, route.replace("<int:pk>", "1"))
    for part in ("<slug:organization>", "<slug:organization_slug>"):
        path = path.replace(part, "acme")
    nobody = client.get(f"/accounts/{path}").status_code
    client.force_login(factories.user("dan", password=factories.PASSWORD))
    assert (nobody, client.get(f"/accounts/{path}").status_code) == ACCOUNTS[route]
