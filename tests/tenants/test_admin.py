import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from allauth.mfa.totp.internal.auth import TOTP
from django.contrib.auth.models import Group, Permission
from django.db import connection
from django.test import Client
from django_tenants.utils import schema_exists
from redis import Redis

from tenants import audit, keys
from tenants.accounts import factors
from tenants.admin import KeyForm
from tenants.models import ApiKey, Membership, Organization, Role, User
from tests import factories

pytestmark = pytest.mark.usefixtures("redis")


@pytest.fixture(autouse=True)
def _static_files(settings: Any, tmp_path: Path) -> None:
    """WhiteNoise warns where none are collected."""
    settings.STATIC_ROOT = tmp_path


@pytest.fixture
def operator(db: None, client: Client) -> Client:
    staff = factories.user("operator", is_staff=True, is_superuser=True)
    client.force_login(staff)
    return client


def page(client: Client, path: str) -> str:
    response = client.get(f"/admin/tenants/{path}")
    assert response.status_code == 200
    return response.content.decode()


def submit(client: Client, path: str, **fields: Any) -> str:
    """What the operator reads after a form that was accepted."""
    response = client.post(f"/admin/tenants/{path}", fields, follow=True)
    assert response.redirect_chain, re.findall(r"errorlist.*?</ul>", response.content.decode())
    return response.content.decode()


NOW = datetime(2030, 1, 1, tzinfo=UTC)
NO_MEMBERS = {
    f"{rows}-{of}_FORMS": 0
    for rows in ("memberships", "model_limits")
    for of in ("TOTAL", "INITIAL")
}
NO_LIMITS = {"requests_per_minute": 0, "tokens_per_minute": 0, "concurrent_requests": 0}
PRIVACY = {"retention": "answers", "kept_days": 30}
DAY = {"suspended_at_0": "", "suspended_at_1": "", "suspended_reason": ""}


@pytest.mark.parametrize("model", ["organization", "user", "membership", "apikey"])
def test_every_list_and_form_opens(
    operator: Client, alice: User, bob: User, acme: Organization, model: str
) -> None:
    key, _ = factories.api_key(acme)
    rows = {
        "organization": acme.pk,
        "user": alice.pk,
        "membership": acme.memberships.get().pk,
        "apikey": key.pk,
    }
    for path in ("", "add/", f"{rows[model]}/change/", "?q=acme", "?q=no-such"):
        page(operator, f"{model}/{path}")


@pytest.mark.parametrize("who", ["alice", "nobody"])
def test_only_operators_enter(client: Client, alice: User, who: str) -> None:
    if who == "alice":
        client.force_login(alice)
    assert client.get("/admin/tenants/apikey/").status_code == 302


def test_the_list_finds_an_organization_by_its_members(
    operator: Client, alice: User, bob: User
) -> None:
    found = page(operator, "organization/?q=alice@example.com")
    assert "acme" in found
    assert "globex" not in found


@pytest.mark.django_db(transaction=True)
def test_a_new_organization_gets_its_schema(operator: Client) -> None:
    new = {"name": "Initech", "slug": "initech-2", "priority": 1, **PRIVACY}
    try:
        submit(operator, "organization/add/", **new, **NO_LIMITS, **NO_MEMBERS, **DAY)
        organization = Organization.objects.get(slug="initech-2")
        assert organization.schema_name == "org_initech_2"
        assert schema_exists("org_initech_2")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP SCHEMA IF EXISTS org_initech_2 CASCADE")


@pytest.mark.parametrize("slug", ["Acme", "a_b", "-a", "a--b", "public schema", "a" * 41])
def test_a_slug_that_cannot_name_a_schema_is_refused(operator: Client, slug: str) -> None:
    new = {"name": "X", "slug": slug, "priority": 1, **PRIVACY}
    form = {**new, **NO_LIMITS, **NO_MEMBERS, **DAY}
    assert operator.post("/admin/tenants/organization/add/", form).status_code == 200
    assert not Organization.objects.exists()


def test_a_minted_key_is_shown_once_and_works(operator: Client, acme: Organization) -> None:
    form = {"organization": acme.pk, "name": "ci", "environment": "live", "scopes": ["usage"]}
    shown = submit(operator, "apikey/add/", **form, **NO_LIMITS, models="")
    text = next(iter(re.findall(r"aip_live_\w{12}_\w{38}", shown)))
    key = ApiKey.objects.for_org(acme).get()
    assert keys.parse(text).is_of(key.secret_hash)
    assert (key.scopes, key.models) == (["usage"], [])
    assert key.created_by is not None
    assert key.created_by.email == "operator@example.com"
    assert text not in page(operator, f"apikey/{key.pk}/change/")
    assert text not in page(operator, "apikey/")


def test_a_key_is_edited_without_touching_what_others_changed(
    operator: Client, acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, _ = factories.api_key(acme)
    validate = KeyForm.clean

    def revoked_meanwhile(form: KeyForm) -> Any:
        keys.revoke(ApiKey.objects.for_org(acme).get(), now=NOW)
        return validate(form)

    monkeypatch.setattr(KeyForm, "clean", revoked_meanwhile)
    form = {"name": "renamed", "scopes": ["inference"], "models": "a,b", **NO_LIMITS}
    submit(operator, f"apikey/{key.pk}/change/", **form)
    key.refresh_from_db()
    assert (key.name, key.scopes, key.models) == ("renamed", ["inference"], ["a", "b"])
    assert key.revoked_at == NOW


@pytest.mark.parametrize("how", ["list", "form"])
def test_a_key_is_revoked(operator: Client, acme: Organization, how: str) -> None:
    key, _ = factories.api_key(acme)
    if how == "list":
        submit(operator, "apikey/", action="revoke_chosen", _selected_action=[key.pk])
    else:
        form = {"name": key.name, "scopes": key.scopes, "models": "", **NO_LIMITS}
        assert 'name="tenants_apikey_revoke"' in page(operator, f"apikey/{key.pk}/change/")
        submit(operator, f"apikey/{key.pk}/change/", tenants_apikey_revoke="1", **form)
    key.refresh_from_db()
    assert key.revoked_at is not None


@pytest.mark.parametrize("model", ["apikey", "organization"])
def test_keys_and_organizations_are_not_deleted(
    operator: Client, acme: Organization, model: str
) -> None:
    key, _ = factories.api_key(acme)
    row = {"apikey": key.pk, "organization": acme.pk}[model]
    response = operator.post(f"/admin/tenants/{model}/{row}/delete/", {"post": "yes"})
    assert response.status_code == 403


def test_an_organization_is_suspended_and_served_again(
    operator: Client, acme: Organization, globex: Organization
) -> None:
    chosen = {"_selected_action": [acme.pk]}
    assert "Suspended: Acme." in submit(operator, "organization/", action="suspend", **chosen)
    acme.refresh_from_db()
    globex.refresh_from_db()
    assert acme.suspended_at is not None
    assert globex.suspended_at is None
    submit(operator, "organization/", action="reinstate", **chosen)
    acme.refresh_from_db()
    assert acme.suspended_at is None


def test_a_user_is_made_by_e_mail_and_joins(operator: Client, acme: Organization) -> None:
    password = {"password1": factories.PASSWORD, "password2": factories.PASSWORD}
    new = {"email": "Dora@Example.COM", "usable_password": "true", **password}
    submit(operator, "user/add/", **new)
    dora = User.objects.get(email="dora@example.com")
    assert dora.check_password(factories.PASSWORD)
    submit(operator, "membership/add/", user=dora.pk, organization=acme.pk, role=Role.VIEWER)
    assert Membership.objects.for_org(acme).get().role == Role.VIEWER
    form = {"user": dora.pk, "organization": acme.pk, "role": Role.OWNER}
    again = operator.post("/admin/tenants/membership/add/", form)
    assert "already exists" in again.content.decode()


@pytest.fixture
def clerk(db: None) -> Client:
    """An operator with every right but to be a superuser."""
    staff = factories.user("clerk", is_staff=True)
    staff.user_permissions.set(Permission.objects.all())
    client = Client()
    client.force_login(staff)
    return client


def person_form(person: User, **changed: Any) -> dict[str, Any]:
    inlines = {f"memberships-{of}_FORMS": 0 for of in ("TOTAL", "INITIAL")}
    return {"email": person.email, "is_active": "on", **inlines, **changed}


def test_an_operator_gives_nobody_rights(clerk: Client, alice: User) -> None:
    group = Group.objects.create(name="everything")
    rights = {
        "is_staff": "on",
        "is_superuser": "on",
        "groups": [group.pk],
        "user_permissions": [Permission.objects.all()[0].pk],
    }
    submit(clerk, f"user/{alice.pk}/change/", **person_form(alice, first_name="Al", **rights))
    alice.refresh_from_db()
    assert (alice.first_name, alice.is_staff, alice.is_superuser) == ("Al", False, False)
    assert not alice.groups.exists()
    assert not alice.user_permissions.exists()
    password = {"password1": factories.PASSWORD, "password2": factories.PASSWORD}
    new = {"email": "eve@example.com", "usable_password": "true", "is_staff": "on", **password}
    submit(clerk, "user/add/", **new)
    assert not User.objects.get(email="eve@example.com").is_staff
    for path in (f"group/{group.pk}/change/", f"group/{group.pk}/delete/", "group/add/"):
        assert clerk.post(f"/admin/auth/{path}", {"name": "more"}).status_code == 403


def test_an_operator_does_nothing_to_an_operator(clerk: Client, alice: User) -> None:
    boss = factories.user("boss", is_staff=True, is_superuser=True)
    boss.set_password("before")
    boss.save()
    TOTP.activate(boss, "SECRET")
    password = {"password1": factories.PASSWORD, "password2": factories.PASSWORD}
    at = f"/admin/tenants/user/{boss.pk}"
    for path in ("change/", "delete/", "password/"):
        form = {**person_form(boss, first_name="Eve"), **password, "post": "yes"}
        assert clerk.post(f"{at}/{path}", form).status_code == 403, path
    chosen = {"_selected_action": [alice.pk, boss.pk]}
    said = submit(clerk, "user/", action="take_factors_away", **chosen)
    assert "Only superusers" in said
    deleting = {"action": "delete_selected", "post": "yes", **chosen}
    clerk.post("/admin/tenants/user/", deleting)
    boss.refresh_from_db()
    assert (boss.first_name, boss.check_password("before")) == ("", True)
    assert factors.are_set(boss)
    assert User.objects.filter(pk=alice.pk).exists()


def test_log_in_takes_an_e_mail_however_it_is_typed(redis: Redis, alice: User) -> None:
    alice.set_password(factories.PASSWORD)
    alice.save()
    assert Client().login(username="ALICE@example.com", password=factories.PASSWORD)
    assert not Client().login(username="ALICE@example.com", password="wrong")


def test_the_audit_log_shows_the_newest_first_whosever_it_is(
    operator: Client, acme: Organization, globex: Organization
) -> None:
    for number, of in enumerate((acme, globex, acme)):
        change = audit.Change("test.done", f"thing:{number}")
        audit.record(change, by=audit.SYSTEM, organization=of.pk, now=NOW)
    shown = re.findall(r"thing:\d", page(operator, "auditentry/"))
    assert list(dict.fromkeys(shown)) == ["thing:2", "thing:1", "thing:0"]
