"""An organization's people come in through its own SAML provider, and nobody else does."""

import base64
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.test import Client

from kit.errors import Invalid
from tenants import saml, single_sign_on
from tenants.models import AuditEntry, Membership, Organization, Protocol, Role, SingleSignOn, User
from tests.tenants import saml_provider
from tests.tenants.saml_provider import SamlProvider
from tests.tenants.test_members import BY
from tests.tenants.test_portal_doors import NOW

ANN = "ann@acme.example"


def browser() -> Client:
    return Client(headers={"host": "portal.example.com"})


pytestmark = [pytest.mark.usefixtures("redis"), pytest.mark.django_db]


@pytest.fixture(autouse=True)
def _afresh(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path
    cache.clear()


@pytest.fixture
def client() -> Client:
    return browser()


@pytest.fixture
def acmes() -> Iterator[SamlProvider]:
    with saml_provider.running(ANN) as found:
        yield found


@pytest.fixture
def set_up(acme: Organization, alice: User, acmes: SamlProvider) -> SingleSignOn:
    """By alice, in the portal, of metadata that she pasted; its domain is confirmed."""
    owner = browser()
    owner.force_login(alice)
    form = {"metadata": acmes.metadata, "role": "developer"}
    owner.post("/o/acme/settings/single-sign-on", form)
    row = SingleSignOn.objects.for_org(acme).get()
    row.domains = ["acme.example"]
    row.save()
    return row


def there_and(client: Client) -> tuple[str, str]:
    """To the provider, as a browser goes: where it sends one back to, and with what."""
    onward = client.get("/accounts/sso/acme/")["Location"]
    there = client.get(onward)
    assert there.status_code == 302, there.content
    acs, answer = httpx.get(there["Location"]).text.split("\n")
    return urlsplit(acs).path, answer


def back(client: Client, path: str, answer: str) -> Any:
    landed = client.post(path, {"SAMLResponse": answer, "RelayState": ""})
    return client.get(landed["Location"]) if landed.status_code == 302 else landed


def come_in(client: Client) -> Any:
    return back(client, *there_and(client))


def test_somebody_new_is_in_with_the_role_of_newcomers(
    client: Client, acme: Organization, set_up: SingleSignOn
) -> None:
    assert set_up.protocol == Protocol.SAML
    assert come_in(client)["Location"] == "/o/"
    ann = User.objects.get(email=ANN)
    assert Membership.objects.for_org(acme).get(user=ann).role == Role.DEVELOPER
    assert client.get("/o/acme/").status_code == 200
    assert come_in(browser())["Location"] == "/o/"
    assert User.objects.filter(email=ANN).count() == 1
    actions = AuditEntry.objects.for_org(acme).values_list("action", flat=True)
    assert {"single_sign_on.set_up", "membership.created", "user.logged_in"} <= set(actions)


def test_a_provider_that_changes_its_key_may_sign_by_either(
    acme: Organization, alice: User, acmes: SamlProvider, set_up: SingleSignOn
) -> None:
    with saml_provider.running(ANN) as second, saml_provider.running(ANN) as third:
        acmes.next_certificate = second.certificate
        single_sign_on.set_up_saml(
            acme, metadata=saml.metadata(acmes.metadata), role=Role.DEVELOPER, now=NOW, by=BY
        )
        assert come_in(browser())["Location"] == "/o/"
        acmes.key, acmes.certificate = second.key, second.certificate
        assert come_in(browser())["Location"] == "/o/"
        acmes.key, acmes.certificate = third.key, third.certificate
        assert come_in(browser()).status_code == 400


def test_our_metadata_says_where_answers_go(client: Client, set_up: SingleSignOn) -> None:
    said = client.get("/accounts/saml/acme/metadata/").content.decode()
    assert 'Location="http://portal.example.com/accounts/saml/acme/acs/"' in said
    assert client.get("/accounts/saml/globex/metadata/").status_code == 404


@pytest.mark.parametrize("email", ["bob@example.com", "x@evil-acme.example", ""])
def test_a_provider_vouches_for_its_own_domains_alone(
    client: Client, acmes: SamlProvider, bob: User, set_up: SingleSignOn, email: str
) -> None:
    acmes.email = email
    assert come_in(client).status_code == 403
    assert client.get("/o/").status_code == 302


def test_what_another_key_signed_is_refused_and_not_kept(
    client: Client, acmes: SamlProvider, set_up: SingleSignOn
) -> None:
    before = Session.objects.count()
    with saml_provider.running(ANN) as mallory:
        acmes.key, acmes.certificate = mallory.key, mallory.certificate
        path, answer = there_and(client)
        kept = Session.objects.count()
        assert back(client, path, answer).status_code == 400
        assert Session.objects.count() == kept <= before + 1
    assert not User.objects.filter(email=ANN).exists()


def _unsigned(provider: SamlProvider) -> None:
    provider.signs = False


def _old(provider: SamlProvider) -> None:
    provider.lives = -timedelta(minutes=9)


def _for_another(provider: SamlProvider) -> None:
    provider.audience = "https://elsewhere.example/metadata/"


@pytest.mark.parametrize("make", [_unsigned, _old, _for_another])
def test_an_answer_that_is_not_good_is_refused(
    client: Client, acmes: SamlProvider, set_up: SingleSignOn, make: Any
) -> None:
    make(acmes)
    assert come_in(client).status_code == 400
    assert not User.objects.filter(email=ANN).exists()


def test_an_answer_is_good_once_and_in_the_browser_that_asked(
    client: Client, set_up: SingleSignOn
) -> None:
    path, answer = there_and(client)
    stranger = browser()
    assert back(stranger, path, answer).status_code in {401, 403}
    assert stranger.get("/o/").status_code == 302
    assert back(client, path, answer)["Location"] == "/o/"
    again = browser()
    assert back(again, path, answer).status_code in {401, 403}
    assert again.get("/o/").status_code == 302


def test_an_answer_that_was_altered_is_refused(
    client: Client, acmes: SamlProvider, set_up: SingleSignOn
) -> None:
    path, answer = there_and(client)
    text = base64.b64decode(answer).replace(b"ann@acme", b"eve@acme")
    assert back(client, path, base64.b64encode(text).decode()).status_code == 400


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not XML",
        "<EntityDescriptor xmlns='urn:oasis:names:tc:SAML:2.0:metadata' entityID='x'/>",
        "<!DOCTYPE a [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><a>&e;</a>",
        "<a>" * 100_000,
    ],
)
def test_what_is_no_metadata_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="metadata"):
        saml.metadata(text)


def test_an_unsigned_log_out_logs_nobody_out(
    client: Client, alice: User, set_up: SingleSignOn
) -> None:
    client.force_login(alice)
    assert client.get("/accounts/saml/acme/sls/", {"SAMLRequest": "x"}).status_code == 400
    assert client.get("/o/").status_code == 200


def test_from_saml_to_openid_and_back(
    acme: Organization, alice: User, set_up: SingleSignOn
) -> None:
    owner = browser()
    owner.force_login(alice)
    form = {"issuer": "https://id.example", "client_id": "x", "role": "viewer"}
    owner.post("/o/acme/settings/single-sign-on", form)
    assert SingleSignOn.objects.for_org(acme).get().protocol == Protocol.SAML, "a secret is missing"
    owner.post("/o/acme/settings/single-sign-on", {**form, "client_secret": "y"})
    found = single_sign_on.provider("acme")
    assert found is not None
    assert (found.protocol, found.certificates) == (Protocol.OIDC, ())
    assert owner.get("/accounts/saml/acme/login/").status_code == 404
