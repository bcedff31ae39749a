"""People register, confirm, log in and have second factors, in a browser and at the API."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, format_hotp_value, hotp_value
from django.core import mail
from django.core.cache import cache
from django.test import Client

from tenants import logins
from tenants.accounts import addresses, factors
from tenants.logins import AddressNotConfirmed
from tenants.models import AuditEntry, LogIn, User
from tests import factories
from tests.factories import PASSWORD
from tests.tenants.test_portal_doors import NOW

ANN = "ann@example.com"
SECRET = "JBSWY3DPEHPK3PXP"

pytestmark = [pytest.mark.usefixtures("redis"), pytest.mark.django_db]


@pytest.fixture(autouse=True)
def _afresh(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path
    cache.clear()


@pytest.fixture
def ann(db: None) -> User:
    """Registered, with a confirmed address and a password."""
    ann = factories.user("ann", password=PASSWORD)
    addresses.confirm(ann)
    return ann


def register(client: Client, email: str = ANN) -> Any:
    return client.post("/accounts/signup/", {"email": email, "password1": PASSWORD})


def log_in(client: Client, email: str = ANN, password: str = PASSWORD) -> Any:
    return client.post("/accounts/login/", {"login": email, "password": password})


def link(pattern: str) -> str:
    found = re.search(rf"https?://testserver({pattern})", str(mail.outbox[-1].body))
    assert found, mail.outbox[-1].body
    return found[1]


def code(secret: str = SECRET) -> str:
    return str(format_hotp_value(hotp_value(secret, int(time.time()) // 30)))


def test_who_registers_confirms_the_address_and_is_in(client: Client) -> None:
    assert register(client)["Location"] == "/accounts/confirm-email/"
    assert client.get("/o/").status_code == 302, "not logged in before the address is confirmed"
    user = User.objects.get(email=ANN)
    assert user.password.startswith("argon2")
    with pytest.raises(AddressNotConfirmed):
        logins.begin(email=ANN, password=PASSWORD, now=NOW)
    confirm = link(r"/accounts/confirm-email/\S+")
    assert b"Is <strong>ann@example.com" in client.get(confirm).content
    assert not addresses.are_confirmed(user, ANN), "a link that is only looked at confirms nothing"
    client.post(confirm)
    assert addresses.are_confirmed(user, ANN)
    assert log_in(client)["Location"] == "/o/"
    assert client.get("/o/").status_code == 200
    assert logins.begin(email=ANN, password=PASSWORD, now=NOW).access


def test_registering_does_not_tell_who_is_registered(client: Client, ann: User) -> None:
    known, unknown = register(client), register(Client(), "new@example.com")
    assert (known.status_code, known["Location"]) == (unknown.status_code, unknown["Location"])
    assert [each.to for each in mail.outbox] == [[ANN], ["new@example.com"]]
    assert "has an account already" in str(mail.outbox[0].body)


def test_a_forgotten_password_does_not_tell_who_is_registered(client: Client, ann: User) -> None:
    answers = [
        client.post("/accounts/password/reset/", {"email": email})
        for email in (ANN, "new@example.com")
    ]
    assert {each["Location"] for each in answers} == {"/accounts/password/reset/done/"}
    assert "no account has it" in str(mail.outbox[1].body)


def test_a_new_password_ends_the_log_ins_at_the_api(client: Client, ann: User) -> None:
    logins.begin(email=ANN, password=PASSWORD, now=NOW)
    client.post("/accounts/password/reset/", {"email": ANN})
    form = client.get(link(r"/accounts/password/reset/key/\S+"))["Location"]
    assert client.post(form, {"password1": "another staple", "password2": "another staple"})
    assert not LogIn.objects.filter(user=ann, ended_at=None).exists()
    ann.refresh_from_db()
    assert ann.check_password("another staple")
    entries = AuditEntry.objects.across_organizations()
    assert entries.filter(action="user.password_changed", target=f"user:{ann.pk}").exists()


def test_log_ins_are_throttled_together_with_the_apis(client: Client, ann: User) -> None:
    for _ in range(10):
        assert b"not correct" in log_in(client, password="wrong").content
    assert b"Too many attempts" in log_in(client).content
    api = client.post(
        "/api/v1/auth/token",
        json.dumps({"email": ANN, "password": PASSWORD}),
        content_type="application/json",
    )
    assert api.status_code == 429


def test_a_person_has_so_many_addresses(client: Client, ann: User) -> None:
    log_in(client)
    for number in range(2, 12):
        page = client.post("/accounts/email/", {"email": f"{number}@example.com", "action_add": ""})
        cache.clear()
    assert "10" in page.content.decode()
    assert EmailAddress.objects.filter(user=ann).count() == 10


def test_a_weak_password_is_refused(client: Client) -> None:
    answer = client.post("/accounts/signup/", {"email": ANN, "password1": "password"})
    assert b"too common" in answer.content
    assert not User.objects.filter(email=ANN).exists()


def test_where_registration_is_closed_nobody_registers(client: Client, settings: Any) -> None:
    settings.REGISTRATION_OPEN = False
    assert b"Registration is closed" in register(client).content
    assert not User.objects.exists()


def test_nobody_is_led_elsewhere_after_logging_in(client: Client, ann: User) -> None:
    form = {"login": ANN, "password": PASSWORD, "next": "https://evil.example/"}
    assert client.post("/accounts/login/", form)["Location"] == "/o/"


def test_a_second_factor_is_asked_for_everywhere(client: Client, ann: User) -> None:
    TOTP.activate(ann, SECRET)
    stored = Authenticator.objects.get(user=ann).data["secret"]
    assert SECRET not in stored, "it is sealed"
    assert log_in(client)["Location"].startswith("/accounts/2fa/authenticate/")
    assert client.get("/o/").status_code == 302
    with pytest.raises(factors.SecondFactorNeeded):
        logins.begin(email=ANN, password=PASSWORD, now=NOW)
    with pytest.raises(factors.WrongSecondFactor):
        logins.begin(email=ANN, password=PASSWORD, code="000000", now=NOW)
    now = code()
    assert logins.begin(email=ANN, password=PASSWORD, code=now, now=NOW).access
    with pytest.raises(factors.WrongSecondFactor):
        logins.begin(email=ANN, password=PASSWORD, code=now, now=NOW)


def test_a_code_or_a_recovery_code_once_lets_one_in(client: Client, ann: User) -> None:
    TOTP.activate(ann, SECRET)
    spare = RecoveryCodes.activate(ann).get_unused_codes()[0]
    log_in(client)
    assert client.post("/accounts/2fa/authenticate/", {"code": code()})["Location"] == "/o/"
    for expected in (302, 200):
        other = Client()
        log_in(other)
        answer = other.post("/accounts/2fa/authenticate/", {"code": spare})
        assert answer.status_code == expected, "a recovery code is good once"


def test_codes_cannot_be_guessed(client: Client, ann: User) -> None:
    TOTP.activate(ann, SECRET)
    log_in(client)
    said = [
        client.post("/accounts/2fa/authenticate/", {"code": f"{number:06}"}).content
        for number in range(6)
    ]
    assert b"Too many failed" in said[-1]


def test_an_operator_with_a_second_factor_cannot_pass_it_by_at_the_admin(
    client: Client, ann: User
) -> None:
    ann.is_staff = True
    ann.save()
    TOTP.activate(ann, SECRET)
    answer = client.post("/admin/login/", {"username": ANN, "password": PASSWORD})
    assert b"log in at the portal" in answer.content
    log_in(client)
    client.post("/accounts/2fa/authenticate/", {"code": code()})
    assert client.get("/admin/").status_code == 200


def test_an_operator_takes_lost_factors_away(client: Client, ann: User) -> None:
    TOTP.activate(ann, SECRET)
    client.force_login(User.objects.create_superuser("op@example.com"))
    form = {"action": "take_factors_away", "_selected_action": ann.pk}
    client.post("/admin/tenants/user/", form)
    assert not factors.are_set(ann)
    entries = AuditEntry.objects.across_organizations()
    assert entries.filter(action="user.second_factors_removed", target=f"user:{ann.pk}").exists()
    assert log_in(Client())["Location"] == "/o/"
