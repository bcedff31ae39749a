"""An organization's people come in through its own OpenID provider, and nobody else does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import requests
from allauth.mfa.totp.internal.auth import TOTP
from django.core.cache import cache
from django.test import Client

from kit import outbound
from tenants import organizations, single_sign_on
from tenants.accounts import addresses
from tenants.models import AuditEntry, Membership, Organization, Role, SingleSignOn, User
from tests import factories
from tests.tenants import provider
from tests.tenants.provider import CLIENT, SECRET, Provider
from tests.tenants.test_accounts import SECRET as TOTP_SECRET
from tests.tenants.test_accounts import code
from tests.tenants.test_members import BY
from tests.tenants.test_portal_doors import NOW

ANN = {"sub": "0042", "email": "ann@acme.example", "email_verified": True, "name": "Ann"}

pytestmark = [pytest.mark.usefixtures("redis"), pytest.mark.django_db]


@pytest.fixture(autouse=True)
def _afresh(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path
    settings.OUTBOUND_NETWORKS = ["127.0.0.0/8"]
    cache.clear()


@pytest.fixture
def acmes() -> Iterator[Provider]:
    """Who says that whoever comes is ann."""
    with provider.running(dict(ANN)) as found:
        yield found


@pytest.fixture
def set_up(acme: Organization, alice: User, acmes: Provider) -> SingleSignOn:
    """Acme's, whose domain is confirmed."""
    single_sign_on.set_up(
        acme,
        issuer=acmes.issuer,
        client_id=CLIENT,
        client_secret=SECRET,
        role=Role.DEVELOPER,
        now=NOW,
        by=BY,
    )
    row = SingleSignOn.objects.for_org(acme).get()
    row.domains = ["acme.example"]
    row.save()
    return row


def come_in(client: Client, slug: str = "acme") -> Any:
    """As a browser would, over the provider and back."""
    there = client.get(f"/accounts/oidc/{slug}/login/")
    assert there.status_code == 302, there.content
    back = httpx.get(there["Location"]).headers["Location"]
    parts = urlsplit(back)
    assert parts.path == f"/accounts/oidc/{slug}/login/callback/"
    return client.get(f"{parts.path}?{parts.query}")


def test_somebody_new_is_in_with_the_role_of_newcomers(
    client: Client, acme: Organization, set_up: SingleSignOn
) -> None:
    assert come_in(client)["Location"] == "/o/"
    ann = User.objects.get(email="ann@acme.example")
    assert not ann.has_usable_password()
    assert addresses.are_confirmed(ann, ann.email)
    assert Membership.objects.for_org(acme).get(user=ann).role == Role.DEVELOPER
    assert client.get("/o/acme/").status_code == 200
    again = Client()
    assert come_in(again)["Location"] == "/o/"
    assert User.objects.filter(email="ann@acme.example").count() == 1
    assert AuditEntry.objects.for_org(acme).filter(action="membership.created").count() == 1


def test_who_registered_before_is_the_same_person_and_keeps_their_role(
    client: Client, acme: Organization, set_up: SingleSignOn
) -> None:
    ann = User.objects.create_user("ann@acme.example")
    addresses.confirm(ann)
    factories.member(ann, acme, Role.ADMIN)
    come_in(client)
    assert User.objects.get(email="ann@acme.example") == ann
    assert Membership.objects.for_org(acme).get(user=ann).role == Role.ADMIN


def test_who_has_a_second_factor_is_asked_for_it_and_is_in(
    client: Client, acme: Organization, globex: Organization, set_up: SingleSignOn
) -> None:
    single_sign_on.set_up(
        globex,
        issuer="https://id.globex.example",
        client_id=CLIENT,
        client_secret="another",
        role=Role.VIEWER,
        now=NOW,
        by=BY,
    )
    ann = User.objects.create_user("ann@acme.example")
    addresses.confirm(ann)
    TOTP.activate(ann, TOTP_SECRET)
    assert come_in(client)["Location"].startswith("/accounts/2fa/authenticate/")
    client.post("/accounts/2fa/authenticate/", {"code": code()})
    assert client.get("/o/acme/").status_code == 200
    assert not Membership.objects.for_org(globex).filter(user=ann).exists()


@pytest.mark.parametrize("email", ["bob@example.com", "x@evil-acme.example", None])
def test_a_provider_vouches_for_its_own_domains_alone(
    client: Client, acmes: Provider, bob: User, set_up: SingleSignOn, email: str | None
) -> None:
    addresses.confirm(bob)
    acmes.claims |= {"email": email}
    assert come_in(client).status_code == 403
    assert client.get("/o/").status_code == 302
    assert Membership.objects.across_organizations().count() == 2, "alice's and bob's"


def test_nobody_becomes_an_operator_by_a_provider(client: Client, set_up: SingleSignOn) -> None:
    ann = User.objects.create_user("ann@acme.example", is_staff=True)
    addresses.confirm(ann)
    assert come_in(client).status_code == 403
    assert client.get("/admin/").status_code == 302


def test_without_confirmed_domains_or_while_suspended_there_is_none(
    client: Client, acme: Organization, set_up: SingleSignOn
) -> None:
    organizations.suspend(acme, now=NOW)
    assert client.get("/accounts/oidc/acme/login/").status_code == 404
    organizations.reinstate(acme, now=NOW)
    set_up.domains = []
    set_up.save()
    assert client.get("/accounts/oidc/acme/login/").status_code == 404


def test_a_state_that_is_not_ones_own_is_refused(client: Client, set_up: SingleSignOn) -> None:
    there = client.get("/accounts/oidc/acme/login/")
    back = urlsplit(httpx.get(there["Location"]).headers["Location"])
    stranger = Client().get(f"{back.path}?{back.query}")
    assert stranger.status_code != 302
    assert not User.objects.filter(email="ann@acme.example").exists()


def test_our_own_network_is_not_called(client: Client, set_up: SingleSignOn, settings: Any) -> None:
    settings.OUTBOUND_NETWORKS = []
    with (
        pytest.raises(requests.ConnectionError, match="not a public"),
        outbound.session() as session,
    ):
        session.get(set_up.issuer)
    assert client.get("/accounts/oidc/acme/login/").status_code == 502
    assert not User.objects.filter(email="ann@acme.example").exists()


def test_the_secret_is_sealed_and_in_no_entry(
    acme: Organization, alice: User, client: Client, set_up: SingleSignOn
) -> None:
    assert SECRET not in set_up.client_secret
    said = str(list(AuditEntry.objects.for_org(acme).values()))
    assert "single_sign_on.set_up" in said
    assert SECRET not in said
    client.force_login(alice)
    page = client.get("/o/acme/settings").content.decode()
    assert set_up.issuer in page
    assert SECRET not in page
    client.post("/o/acme/settings/single-sign-on", {"remove": "1"})
    assert single_sign_on.of(acme.pk) is None
