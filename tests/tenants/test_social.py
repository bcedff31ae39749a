"""People come in by an account elsewhere, where that service has confirmed their address."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.totp.internal.auth import TOTP
from allauth.socialaccount.models import SocialAccount
from allauth.socialaccount.providers.github.views import GitHubOAuth2Adapter
from django.core import mail
from django.core.cache import cache
from django.core.checks import run_checks
from django.test import Client

from tenants.accounts import addresses, social
from tenants.models import AuditEntry, User
from tests import factories
from tests.tenants import provider
from tests.tenants.provider import CLIENT, SECRET, Provider
from tests.tenants.test_accounts import ANN, code, log_in
from tests.tenants.test_accounts import SECRET as TOTP_SECRET

ELSEWHERE = {"sub": "0042", "email": ANN, "email_verified": True, "name": "Ann"}
OIDC, GITHUB = "/accounts/oidc/social_example/login/", "/accounts/github/login/"

pytestmark = [pytest.mark.usefixtures("redis"), pytest.mark.django_db]


@pytest.fixture
def there(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    """A service that is an OpenID provider and, at other paths, a GitHub."""
    settings.STATIC_ROOT = tmp_path
    settings.OUTBOUND_NETWORKS = ["127.0.0.0/8"]
    cache.clear()
    with provider.running(dict(ELSEWHERE)) as found:
        credentials = {"client_id": CLIENT, "client_secret": SECRET}
        settings.SOCIAL_LOGINS = [
            {"id": "example", "name": "Example", "issuer": found.issuer, **credentials},
            {"id": "github", "name": "GitHub", "issuer": "", **credentials},
        ]
        for name, path in (
            ("authorize_url", "/login/oauth/authorize"),
            ("access_token_url", "/login/oauth/access_token"),
            ("profile_url", "/api/v3/user"),
            ("emails_url", "/api/v3/user/emails"),
        ):
            monkeypatch.setattr(GitHubOAuth2Adapter, name, found.issuer + path)
        yield found


@pytest.fixture
def ann(db: None) -> User:
    """Registered with a password, her address confirmed."""
    ann = factories.user("ann", password=factories.PASSWORD)
    addresses.confirm(ann)
    return ann


def come_in(client: Client, door: str = OIDC, process: str = "login") -> Any:
    """As a browser would, there and back."""
    away = client.get(door, {"process": process})
    assert away.status_code == 302, away.content
    back = urlsplit(httpx.get(away["Location"]).headers["Location"])
    assert back.path == f"{door}callback/"
    return client.get(f"{back.path}?{back.query}")


def test_the_pages_offer_what_the_settings_name(client: Client, there: Provider) -> None:
    for page in ("/accounts/login/", "/accounts/signup/"):
        said = client.get(page).content.decode()
        assert f'href="{OIDC}?process=login"' in said
        assert f'href="{GITHUB}?process=login"' in said


def test_somebody_new_is_registered_with_a_confirmed_address(
    client: Client, there: Provider
) -> None:
    assert come_in(client)["Location"] == "/o/"
    ann = User.objects.get(email=ANN)
    assert not ann.has_usable_password()
    assert addresses.are_confirmed(ann, ANN)
    assert client.get("/o/").status_code == 200
    assert come_in(Client())["Location"] == "/o/"
    assert User.objects.filter(email=ANN).count() == 1
    actions = AuditEntry.objects.across_organizations().filter(target=f"user:{ann.pk}")
    assert {"user.registered", "user.logged_in"} <= set(actions.values_list("action", flat=True))


def test_github_names_several_addresses_and_the_confirmed_ones_count(
    client: Client, there: Provider
) -> None:
    there.claims = {"id": 42, "login": "ann", "email": "bob@example.com"}
    there.emails = [
        {"email": "bob@example.com", "primary": True, "verified": False},
        {"email": ANN, "primary": False, "verified": True},
    ]
    assert come_in(client, GITHUB)["Location"] == "/o/"
    assert [each.email for each in EmailAddress.objects.all()] == [ANN]
    assert User.objects.get().email == ANN


@pytest.mark.parametrize("claims", [{"email_verified": False}, {"email": None}])
def test_an_address_that_is_not_confirmed_there_lets_nobody_in(
    client: Client, there: Provider, ann: User, claims: dict[str, Any]
) -> None:
    there.claims |= claims
    answer = come_in(client)
    assert answer.status_code == 403
    assert b"confirmed" in answer.content
    assert client.get("/o/").status_code == 302
    assert User.objects.count() == 1


def test_who_registered_before_is_the_same_person_and_is_asked_for_the_second_factor(
    client: Client, there: Provider, ann: User
) -> None:
    assert come_in(client)["Location"] == "/o/"
    assert SocialAccount.objects.get().user == ann
    assert log_in(Client())["Location"] == "/o/", "the password is good still"
    TOTP.activate(ann, TOTP_SECRET)
    again = Client()
    assert come_in(again)["Location"].startswith("/accounts/2fa/authenticate/")
    assert again.get("/o/").status_code == 302
    again.post("/accounts/2fa/authenticate/", {"code": code()})
    assert again.get("/o/").status_code == 200


def test_who_registered_anothers_address_before_them_does_not_keep_their_password(
    client: Client, there: Provider
) -> None:
    mallory = factories.user("ann", password=factories.PASSWORD)
    EmailAddress.objects.create(user=mallory, email=ANN, primary=True, verified=False)
    assert come_in(client)["Location"] == "/accounts/confirm-email/"
    mallory.refresh_from_db()
    assert not mallory.has_usable_password()
    assert log_in(Client()).status_code == 200, "the form again"


def test_so_many_accounts_let_one_person_in_and_no_more(
    client: Client, there: Provider, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(social, "MOST", 1)
    assert come_in(client)["Location"] == "/o/"
    there.claims |= {"sub": "another"}
    answer = come_in(Client())
    assert (answer.status_code, b"disconnect one first" in answer.content) == (409, True)


def test_operators_come_in_by_no_account_elsewhere(
    client: Client, there: Provider, ann: User
) -> None:
    User.objects.filter(pk=ann.pk).update(is_staff=True)
    assert come_in(client).status_code == 403
    assert client.get("/admin/").status_code == 302
    log_in(client)
    client.post("/accounts/reauthenticate/", {"password": factories.PASSWORD})
    assert come_in(client, process="connect").status_code == 403
    assert not SocialAccount.objects.exists()
    ann.refresh_from_db()
    assert ann.has_usable_password()


def test_where_registration_is_closed_only_who_is_known_comes_in(
    client: Client, there: Provider, settings: Any
) -> None:
    settings.REGISTRATION_OPEN = False
    assert b"invit" in come_in(client).content
    assert not User.objects.exists()
    addresses.confirm(factories.user("ann"))
    assert come_in(client)["Location"] == "/o/"


def test_an_account_elsewhere_is_connected_and_taken_away_by_whom_it_is(
    client: Client, there: Provider, ann: User
) -> None:
    there.claims |= {"email": "other@example.net"}
    log_in(client)
    asked = client.get(OIDC, {"process": "connect"})
    assert asked["Location"].startswith("/accounts/reauthenticate/"), "a session may be stolen"
    client.post("/accounts/reauthenticate/", {"password": factories.PASSWORD})
    assert come_in(client, process="connect")["Location"] == "/accounts/3rdparty/"
    page = client.get("/accounts/3rdparty/").content.decode()
    assert "Example" in page
    assert "other@example.net" in page
    assert any("connected" in str(each.body).lower() for each in mail.outbox)
    assert come_in(Client())["Location"] == "/o/"
    client.post("/accounts/3rdparty/", {"account": SocialAccount.objects.get().pk})
    assert not SocialAccount.objects.exists()
    found = AuditEntry.objects.across_organizations().filter(target=f"user:{ann.pk}")
    actions = set(found.values_list("action", flat=True))
    assert {"user.log_in_connected", "user.log_in_disconnected"} <= actions


def test_a_connected_account_whose_service_is_no_more_is_shown_still(
    client: Client, there: Provider, ann: User, settings: Any
) -> None:
    come_in(client)
    settings.SOCIAL_LOGINS = []
    assert "social_example" in client.get("/accounts/3rdparty/").content.decode()
    assert client.get(OIDC).status_code == 404
    assert client.get(GITHUB).status_code == 404


def test_a_state_that_is_not_ones_own_is_refused(client: Client, there: Provider) -> None:
    for door in (OIDC, GITHUB):
        away = client.get(door)
        back = urlsplit(httpx.get(away["Location"]).headers["Location"])
        assert Client().get(f"{back.path}?{back.query}").status_code in {401, 403}
    assert not User.objects.exists()


def test_a_service_that_cannot_be_reached_is_said_to_be_so(
    client: Client, there: Provider, settings: Any
) -> None:
    settings.OUTBOUND_NETWORKS = []
    assert client.get(OIDC).status_code == 502


def test_a_service_that_lacks_something_is_found_at_the_start(settings: Any) -> None:
    whole = {"name": "X", "issuer": "https://x", "client_id": "x", "client_secret": "y"}
    settings.SOCIAL_LOGINS = [{"id": "x", **whole, "issuer": ""}, {"id": "a-b", **whole}]
    said = [each.msg for each in run_checks() if each.id and each.id.startswith("tenants.")]
    assert [each for each in said if "SOCIAL_X_ISSUER" in each]
    assert [each for each in said if "'a-b'" in each]
