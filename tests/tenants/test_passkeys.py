"""People log in with a passkey, alone or as second factor; no other key and no old answer does."""

import json
from pathlib import Path
from typing import Any

import pytest
from allauth.account.utils import user_pk_to_url_str
from allauth.mfa.models import Authenticator
from django.core.cache import cache
from django.test import Client

from tenants import logins
from tenants.accounts import addresses, factors, passkeys
from tenants.models import AuditEntry, User
from tests import factories
from tests.factories import PASSWORD
from tests.tenants.passkey import Passkey
from tests.tenants.test_accounts import ANN, log_in
from tests.tenants.test_logins import NOW

LOG_IN = "/accounts/2fa/webauthn/login/"

pytestmark = [pytest.mark.usefixtures("redis"), pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def _afresh(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path
    cache.clear()


@pytest.fixture
def ann() -> User:
    """With a password, and an address that is confirmed."""
    ann = factories.user("ann", password=PASSWORD)
    addresses.confirm(ann)
    return ann


@pytest.fixture
def passkey(ann: User) -> Passkey:
    """Ann's, which she has added in the portal."""
    browser, made = Client(), Passkey()
    log_in(browser)
    browser.post("/accounts/reauthenticate/", {"password": PASSWORD})
    assert browser.get("/accounts/2fa/webauthn/add/").status_code == 200
    form = {"name": "laptop", "credential": json.dumps(made.register(challenge(browser)))}
    browser.post("/accounts/2fa/webauthn/add/", {**form, "passwordless": "on"})
    assert factors.are_set(ann)
    return made


def challenge(browser: Client) -> str:
    return str(browser.session["mfa.webauthn.state"]["challenge"])


def ask(browser: Client) -> str:
    """What the log-in page's script asks for."""
    headers = {"x-requested-with": "XMLHttpRequest"}
    options = browser.get(LOG_IN, headers=headers).json()
    return str(options["request_options"]["publicKey"]["challenge"])


def come_in(browser: Client, key: Passkey, ann: User, **how: str) -> bool:
    said = key.assertion(ask(browser), user=user_pk_to_url_str(ann), **how)
    browser.post(LOG_IN, {"credential": json.dumps(said)})
    return browser.get("/o/").status_code == 200


def test_a_passkey_lets_its_person_in_without_a_password(ann: User, passkey: Passkey) -> None:
    assert come_in(Client(), passkey, ann)
    entries = AuditEntry.objects.across_organizations().filter(target=f"user:{ann.pk}")
    actions = set(entries.values_list("action", flat=True))
    assert {"user.second_factor_added", "user.logged_in"} <= actions


def test_there_are_no_more_than_may_be(
    ann: User, passkey: Passkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passkeys, "MOST", 1)
    browser = Client()
    assert come_in(browser, passkey, ann)
    browser.post("/accounts/reauthenticate/", {"password": PASSWORD})
    browser.get("/accounts/2fa/webauthn/add/")
    form = {"name": "other", "credential": json.dumps(Passkey().register(challenge(browser)))}
    page = browser.post("/accounts/2fa/webauthn/add/", form)
    assert "You have 1 passkeys, the most there may be; remove one first." in page.content.decode()
    assert Authenticator.objects.filter(type=Authenticator.Type.WEBAUTHN).count() == 1


def test_another_key_does_not(ann: User, passkey: Passkey) -> None:
    forged = Passkey(identifier=passkey.identifier)
    assert not come_in(Client(), forged, ann)
    assert not come_in(Client(), Passkey(), ann)


def test_an_answer_to_an_old_question_does_not(ann: User, passkey: Passkey) -> None:
    browser = Client()
    old = passkey.assertion(ask(browser), user=user_pk_to_url_str(ann))
    ask(browser)
    browser.post(LOG_IN, {"credential": json.dumps(old)})
    assert browser.get("/o/").status_code == 302


def test_an_answer_given_to_another_host_does_not(ann: User, passkey: Passkey) -> None:
    assert not come_in(Client(), passkey, ann, host="evil.example")


def test_it_does_not_let_somebody_else_in(ann: User, passkey: Passkey) -> None:
    assert not come_in(Client(), passkey, factories.user("bob"))


def test_it_is_the_second_factor_after_a_password(ann: User, passkey: Passkey) -> None:
    browser = Client()
    assert log_in(browser)["Location"].startswith("/accounts/2fa/authenticate/")
    assert browser.get("/o/").status_code == 302
    browser.get("/accounts/2fa/authenticate/")
    said = passkey.assertion(challenge(browser), user=user_pk_to_url_str(ann))
    browser.post("/accounts/2fa/authenticate/", {"credential": json.dumps(said)})
    assert browser.get("/o/").status_code == 200
    with pytest.raises(factors.SecondFactorNeeded):
        logins.begin(email=ANN, password=PASSWORD, now=NOW)


def test_one_that_was_taken_away_does_not(ann: User, passkey: Passkey) -> None:
    Authenticator.objects.filter(user=ann, type=Authenticator.Type.WEBAUTHN).delete()
    assert not come_in(Client(), passkey, ann)
