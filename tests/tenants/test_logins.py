"""People log in, in an organization that they belong to, and are out within a second."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import jwt
import pytest
from asgiref.sync import async_to_sync
from django.conf import settings as django_settings
from django.db import close_old_connections, connection
from django.test import AsyncClient, Client
from redis import Redis

from kit import origin
from kit.errors import Invalid
from kit.origin import Origin
from kit.redis import async_state
from tenants import auth, known, logins, organizations, throttle, tokens
from tenants.auth import Caller, NotAMember, Suspended
from tenants.models import AuditEntry, LogIn, Membership, Organization, Role, User
from tenants.tokens import NotLoggedIn, Pair
from tests import factories

pytestmark = [pytest.mark.usefixtures("redis"), pytest.mark.django_db(transaction=True)]

NOW = datetime.now(UTC)


@pytest.fixture
def dora(acme: Organization) -> User:
    """A developer of acme's, with a password."""
    dora = factories.user("dora", password=factories.PASSWORD)
    factories.member(dora, acme, Role.DEVELOPER)
    return dora


@pytest.fixture
def pair(dora: User) -> Pair:
    """Of a log-in of hers."""
    return logins.begin(email="Dora@Example.com", password=factories.PASSWORD, now=NOW)


def caller_of(access: str, organization: str = "acme") -> Caller:
    async def run() -> Caller:
        origin.begin(Origin(organization=organization))
        try:
            return await auth.authenticate(f"Bearer {access}")
        finally:
            await async_state().aclose()

    for records in (known.LOGINS, known.MEMBERS, known.ORGANIZATIONS):
        records.forget()
    return asyncio.run(run())


def call(method: str, path: str, form: Any = None, **headers: str) -> tuple[int, Any]:
    @async_to_sync
    async def run() -> tuple[int, Any]:
        response = await AsyncClient().generic(
            method,
            f"/api/v1/{path}",
            json.dumps(form) if form is not None else "",
            content_type="application/json",
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )
        await async_state().aclose()
        return response.status_code, json.loads(response.content or b"null")

    return run()


def test_an_access_token_names_a_caller_in_the_organization_that_is_said(
    pair: Pair, dora: User, acme: Organization
) -> None:
    caller = caller_of(pair.access)
    assert (caller.organization, caller.user, caller.role) == (acme.pk, dora.pk, Role.DEVELOPER)
    assert caller.scopes == {"inference", "usage"}
    assert caller.key == f"u:{dora.pk}"


def test_a_warm_person_costs_no_database(
    pair: Pair, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        origin.begin(Origin(organization="acme"))
        await auth.authenticate(f"Bearer {pair.access}")
        for records in (known.LOGINS, known.MEMBERS, known.ORGANIZATIONS):
            records.forget()
            monkeypatch.setattr(records, "_load", lambda _: pytest.fail("went to the database"))
        await auth.authenticate(f"Bearer {pair.access}")
        await async_state().aclose()

    redis.flushdb()
    asyncio.run(run())


@pytest.mark.parametrize("slug", ["globex", "initech", "public"])
def test_another_organization_is_refused_whether_it_exists_or_not(
    pair: Pair, globex: Organization, slug: str
) -> None:
    with pytest.raises(NotAMember, match=slug) as refusal:
        caller_of(pair.access, slug)
    assert refusal.value.status == 403


@pytest.mark.parametrize("slug", ["", "ACME", "a:b", "acme\n"])
def test_a_person_says_for_which_organization(pair: Pair, slug: str) -> None:
    with pytest.raises(Invalid, match="X-Organization"):
        caller_of(pair.access, slug)


@pytest.mark.parametrize("how", ["save", "delete", "admin", "user deleted"])
def test_a_change_of_membership_is_everywhere_within_a_second(
    pair: Pair, dora: User, acme: Organization, how: str, client: Client
) -> None:
    assert caller_of(pair.access).role is Role.DEVELOPER
    place = Membership.objects.for_org(acme).get()
    if how == "save":
        place.role = Role.VIEWER
        place.save()
        assert caller_of(pair.access).role is Role.VIEWER
        return
    if how == "delete":
        place.delete()
    elif how == "admin":
        client.force_login(factories.user("operator", is_staff=True, is_superuser=True))
        ticked = {"action": "delete_selected", "post": "yes", "_selected_action": [place.pk]}
        client.post("/admin/tenants/membership/", ticked)
    else:
        dora.delete()
    with pytest.raises((NotAMember, NotLoggedIn)):
        caller_of(pair.access)


def test_a_new_member_is_let_in_though_just_refused(charlie: User, acme: Organization) -> None:
    charlie.set_password(factories.PASSWORD)
    charlie.save()
    pair = logins.begin(email=charlie.email, password=factories.PASSWORD, now=NOW)
    with pytest.raises(NotAMember):
        caller_of(pair.access)
    factories.member(charlie, acme, Role.BILLING)
    assert caller_of(pair.access).role is Role.BILLING


def test_a_suspended_organization_shuts_its_people_out(pair: Pair, acme: Organization) -> None:
    organizations.suspend(acme, now=NOW, reason="unpaid")
    with pytest.raises(Suspended):
        caller_of(pair.access)


def test_a_refresh_token_is_good_once(pair: Pair, dora: User) -> None:
    second = logins.renew(pair.refresh, now=NOW)
    assert caller_of(second.access).user == dora.pk
    with pytest.raises(NotLoggedIn, match="used before"):
        logins.renew(pair.refresh, now=NOW)
    for dead in (second.refresh, pair.refresh):
        with pytest.raises(NotLoggedIn):
            logins.renew(dead, now=NOW)
    for dead in (second.access, pair.access):
        with pytest.raises(NotLoggedIn):
            caller_of(dead)
    entry = AuditEntry.objects.across_organizations().filter(chain=0).latest("id")
    assert (entry.action, entry.target) == ("login.token_reused", f"user:{dora.pk}")


def test_of_many_who_renew_at_once_one_succeeds(pair: Pair) -> None:
    def renew(_: int) -> bool:
        try:
            logins.renew(pair.refresh, now=NOW)
        except NotLoggedIn:
            return False
        finally:
            connection.close()
            close_old_connections()
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(renew, range(8))) == 1


def test_other_log_ins_live_on(pair: Pair, dora: User) -> None:
    other = logins.begin(email=dora.email, password=factories.PASSWORD, now=NOW)
    logins.end(pair.refresh, now=NOW)
    with pytest.raises(NotLoggedIn):
        caller_of(pair.access)
    assert caller_of(other.access).user == dora.pk
    logins.end_all(dora, now=NOW)
    with pytest.raises(NotLoggedIn):
        caller_of(other.access)
    assert not LogIn.objects.filter(ended_at=None).exists()


@pytest.mark.parametrize("how", ["password", "is_active"])
def test_whoever_an_operator_shuts_out_is_out(
    pair: Pair, dora: User, client: Client, how: str
) -> None:
    client.force_login(factories.user("operator", is_staff=True, is_superuser=True))
    assert caller_of(pair.access)
    if how == "password":
        new = {"usable_password": "true", "password1": "a new one 77", "password2": "a new one 77"}
        client.post(f"/admin/tenants/user/{dora.pk}/password/", new)
    else:
        form = {
            "email": dora.email,
            "date_joined_0": "2026-01-01",
            "memberships-TOTAL_FORMS": 0,
            "memberships-INITIAL_FORMS": 0,
        }
        client.post(f"/admin/tenants/user/{dora.pk}/change/", form)
    with pytest.raises(NotLoggedIn):
        caller_of(pair.access)
    with pytest.raises(NotLoggedIn):
        logins.renew(pair.refresh, now=NOW)


def _forged(key: str, algorithm: str = "HS256", **claims: Any) -> str:
    now = datetime.now(UTC)
    body = {
        "token_type": "access",
        "exp": now + timedelta(minutes=5),
        "iat": now,
        "jti": "x",
        "sub": "1",
        "sid": "00000000-0000-0000-0000-000000000000",
    }
    return jwt.encode(body | claims, key, algorithm=algorithm)


def test_a_token_that_is_not_ours_is_refused(pair: Pair) -> None:
    key = str(django_settings.SIMPLE_JWT["SIGNING_KEY"])
    past = datetime.now(UTC) - timedelta(seconds=1)
    for text in (
        pair.refresh,
        pair.access[:-3] + "abc",
        _forged("another key that is long enough for it"),
        _forged("", "none"),
        _forged(key),
        _forged(key, exp=past),
        _forged(key, sid="no uuid"),
        _forged(key, sub="no number"),
        "a.b.c",
        "..",
    ):
        with pytest.raises(NotLoggedIn):
            caller_of(text)
    with pytest.raises(NotLoggedIn):
        tokens.read_refresh(pair.access)


def test_log_in_renewal_and_log_out_over_rest(dora: User) -> None:
    status, first = call(
        "POST", "auth/token", {"email": "DORA@example.com", "password": factories.PASSWORD}
    )
    assert (status, first["token_type"], first["expires_in"]) == (200, "Bearer", 600)
    status, second = call("POST", "auth/refresh", {"refresh": first["refresh"]})
    assert status == 200
    bearer = {"Authorization": f"Bearer {second['access']}"}
    assert call("GET", "auth/me", **bearer) == (
        200,
        {
            "id": dora.pk,
            "email": "dora@example.com",
            "organizations": [{"slug": "acme", "name": "Acme", "role": "developer"}],
        },
    )
    assert call("GET", "usage", **bearer)[0] == 400
    assert call("GET", "usage", X_Organization="acme", **bearer)[0] == 200
    assert call("GET", "keys", X_Organization="acme", **bearer)[0] == 200
    status, said = call("GET", "audit", X_Organization="acme", **bearer)
    assert (status, said["code"]) == (403, "insufficient_role")
    assert call("POST", "auth/logout", {"refresh": second["refresh"]})[0] == 204
    known.LOGINS.forget()
    assert call("GET", "auth/me", **bearer)[0] == 401


def test_a_person_makes_a_key_in_their_own_name(pair: Pair, dora: User) -> None:
    bearer = {"Authorization": f"Bearer {pair.access}", "X_Organization": "acme"}
    status, made = call("POST", "keys", {"name": "mine"}, **bearer)
    assert (status, made["created_by"]) == (201, "dora@example.com")
    assert call("POST", "keys", {"name": "more", "scopes": ["audit"]}, **bearer)[0] == 403
    entry = AuditEntry.objects.across_organizations().latest("id")
    assert (entry.actor, entry.actor_name) == (f"user:{dora.pk}", "dora@example.com")


@pytest.mark.parametrize(
    "form",
    [
        {"email": "dora@example.com", "password": "wrong"},
        {"email": "nobody@example.com", "password": factories.PASSWORD},
    ],
)
def test_a_wrong_password_and_an_unknown_account_look_the_same(dora: User, form: Any) -> None:
    status, said = call("POST", "auth/token", form)
    assert (status, said["code"]) == (401, "wrong_credentials")
    assert said["detail"] == "No active account has this e-mail address and password."


def test_guessing_is_throttled_and_lets_the_owner_in_from_elsewhere(
    dora: User, redis: Redis
) -> None:
    wrong = {"email": "Dora@example.com", "password": "wrong"}
    right = {"email": "dora@example.com", "password": factories.PASSWORD}
    for _ in range(throttle.OF_BOTH):
        assert call("POST", "auth/token", wrong)[0] == 401
    status, said = call("POST", "auth/token", right)
    assert (status, said["code"]) == (429, "too_many_attempts")
    django_settings.TRUSTED_PROXIES.append("127.0.0.1")
    try:
        assert call("POST", "auth/token", right, X_Forwarded_For="192.0.2.1")[0] == 200
    finally:
        django_settings.TRUSTED_PROXIES.remove("127.0.0.1")
    assert "dora" not in str(redis.keys("tries:*"))


def test_an_account_and_an_address_have_their_own_bounds(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tries(accounts: int, addresses: int) -> int:
        redis.flushdb()
        done, waits = 0, list[float]()
        for number in range(throttle.OF_ACCOUNT + 5):
            origin.begin(Origin(origin.address(f"192.0.2.{number % addresses}")))
            try:
                throttle.attempt_now(f"{number % accounts}@example.com")
            except throttle.TooManyAttempts as refusal:
                waits.append(refusal.retry_after or 0)
                continue
            done += 1
        assert all(0 < wait <= throttle.WINDOW_MS / 1000 for wait in waits)
        return done

    assert tries(1, 1) == throttle.OF_BOTH
    assert tries(1, 50) == throttle.OF_ACCOUNT
    assert tries(50, 1) == throttle.OF_ADDRESS
    assert tries(50, 50) == throttle.OF_ACCOUNT + 5
    origin.begin(Origin())


def test_a_network_of_ipv6_is_one_address() -> None:
    tried = 0
    for host in range(throttle.OF_ADDRESS + 5):
        origin.begin(Origin(address=origin.address(f"2001:db8::{host:x}")))
        try:
            throttle.attempt_now(f"{host}@example.com")
            tried += 1
        except throttle.TooManyAttempts:
            break
    assert tried == throttle.OF_ADDRESS
    origin.begin(Origin(address=origin.address("2001:db8:0:1::1")))
    throttle.attempt_now("another@example.com")


def test_operators_log_in_is_throttled_too(client: Client) -> None:
    factories.user("operator", password=factories.PASSWORD, is_staff=True, is_superuser=True)
    form = {"username": "operator@example.com", "password": "wrong"}
    for _ in range(throttle.OF_BOTH):
        client.post("/admin/login/", form)
    page = client.post("/admin/login/", form | {"password": factories.PASSWORD})
    assert page.status_code == 200
    assert "Too many attempts" in page.content.decode()


def test_an_operators_log_in_by_token_is_recorded(dora: User) -> None:
    User.objects.filter(pk=dora.pk).update(is_staff=True)
    logins.begin(email=dora.email, password=factories.PASSWORD, now=NOW)
    entry = AuditEntry.objects.across_organizations().filter(chain=0).latest("id")
    assert (entry.action, entry.actor) == ("operator.logged_in", f"operator:{dora.pk}")


def test_no_secret_is_logged_on_the_way(
    dora: User, acme: Organization, log_lines: StringIO
) -> None:
    wrong = {"email": dora.email, "password": "a wrong password"}
    call("POST", "auth/token", wrong)
    right = {"email": dora.email, "password": factories.PASSWORD}
    _, pair = call("POST", "auth/token", right)
    _, renewed = call("POST", "auth/refresh", {"refresh": pair["refresh"]})
    bearer = {"Authorization": f"Bearer {renewed['access']}", "X_Organization": "acme"}
    _, key = call("POST", "keys", {"name": "mine"}, **bearer)
    call("GET", "usage", Authorization=f"Bearer {key['key']}")
    call("GET", "usage", Authorization=f"Bearer {key['key']}x")
    call("POST", "keys/leaked", {"key": key["key"]})
    said = log_lines.getvalue()
    assert "path=/api/v1/keys/leaked" in said
    secrets = [wrong["password"], factories.PASSWORD, pair["access"], pair["refresh"]]
    secrets += [renewed["access"], renewed["refresh"], key["key"], dora.password]
    assert not [secret for secret in secrets if secret in said]
