"""Roles are given and taken by those who may, and an organization always has an owner."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connection
from django.test import AsyncClient

from kit.redis import async_state
from tenants import members, tokens
from tenants.audit import Actor
from tenants.auth import Caller, NotYourRole
from tenants.known import MEMBERS
from tenants.members import LastOwner, NoSuchMember
from tenants.models import AuditEntry, LogIn, Membership, Organization, Role, User
from tests import factories

pytestmark = [pytest.mark.usefixtures("redis"), pytest.mark.django_db(transaction=True)]

NOW = datetime.now(UTC)
BY = Actor("user:1", "somebody")


@pytest.fixture
def dora(acme: Organization) -> User:
    """A developer of acme's."""
    dora = factories.user("dora")
    factories.member(dora, acme, Role.DEVELOPER)
    return dora


def caller(of: Organization, user: User, role: Role) -> Caller:
    return factories.caller(organization=of.pk, slug=of.slug, user=user.pk, role=role)


def roles(of: Organization) -> dict[str, str]:
    rows = Membership.objects.for_org(of).select_related("user")
    return {each.user.email.split("@")[0]: each.role for each in rows}


def call(user: User, method: str, path: str, form: Any = None) -> tuple[int, Any]:
    login = LogIn(user=user, created_at=NOW, refreshed_at=NOW)
    pair = tokens.pair(user=user.pk, login=login.pk)
    login.save(force_insert=True)
    MEMBERS.forget()

    @async_to_sync
    async def run() -> tuple[int, Any]:
        response = await AsyncClient().generic(
            method,
            f"/api/v1/{path}",
            json.dumps(form) if form is not None else "",
            content_type="application/json",
            headers={"Authorization": f"Bearer {pair.access}", "X-Organization": "acme"},
        )
        await async_state().aclose()
        return response.status_code, json.loads(response.content or b"null")

    return run()


def test_an_owner_gives_every_role(alice: User, dora: User, acme: Organization) -> None:
    status, page = call(alice, "GET", "members")
    assert [(each["email"], each["role"]) for each in page["data"]] == [
        ("alice@example.com", "owner"),
        ("dora@example.com", "developer"),
    ]
    for role in Role:
        status, said = call(alice, "PATCH", f"members/{dora.pk}", {"role": role.value})
        assert (status, said["role"]) == (200, role.value)
    assert call(alice, "PATCH", f"members/{dora.pk}", {"role": "king"})[0] == 400
    entry = AuditEntry.objects.for_org(acme).latest("id")
    assert (entry.action, entry.target) == ("membership.changed", f"user:{dora.pk}")
    assert (entry.before, entry.after) == ({"role": "billing"}, {"role": "viewer"})
    assert entry.actor == f"user:{alice.pk}"


def test_an_admin_touches_no_owner_and_makes_none(
    alice: User, dora: User, charlie: User, acme: Organization
) -> None:
    factories.member(charlie, acme, Role.ADMIN)
    by = caller(acme, charlie, Role.ADMIN)
    members.give_role(by, BY, user=dora.pk, role=Role.ADMIN, now=NOW)
    for user, role in ((dora, Role.OWNER), (charlie, Role.OWNER), (alice, Role.VIEWER)):
        with pytest.raises(NotYourRole):
            members.give_role(by, BY, user=user.pk, role=role, now=NOW)
    with pytest.raises(NotYourRole):
        members.remove(by, BY, user=alice.pk, now=NOW)
    assert roles(acme) == {"alice": "owner", "dora": "admin", "charlie": "admin"}


def test_nobody_is_made_to_own_more_than_their_share(
    alice: User, dora: User, acme: Organization, settings: Any
) -> None:
    settings.ORGANIZATIONS_EACH = 0
    for method, path, form in (
        ("PATCH", f"members/{dora.pk}", {"role": "owner"}),
        ("POST", "ownership", {"user": dora.pk}),
    ):
        status, said = call(alice, method, path, form)
        assert (status, said["code"]) == (409, "too_many_organizations"), path
    assert roles(acme) == {"alice": "owner", "dora": "developer"}


def test_the_last_owner_stays(alice: User, dora: User, acme: Organization) -> None:
    by = caller(acme, alice, Role.OWNER)
    with pytest.raises(LastOwner):
        members.give_role(by, BY, user=alice.pk, role=Role.ADMIN, now=NOW)
    with pytest.raises(LastOwner):
        members.remove(by, BY, user=alice.pk, now=NOW)
    assert call(alice, "POST", "members/leave", {"organization": "acme"})[0] == 409
    members.give_role(by, BY, user=dora.pk, role=Role.OWNER, now=NOW)
    members.leave(by, BY, user=alice.pk, now=NOW)
    assert roles(acme) == {"dora": "owner"}


def test_of_two_owners_who_leave_at_once_one_stays(
    alice: User, charlie: User, acme: Organization
) -> None:
    factories.member(charlie, acme, Role.OWNER)

    def leave(user: User) -> bool:
        try:
            members.leave(caller(acme, user, Role.OWNER), BY, user=user.pk, now=NOW)
        except LastOwner:
            return False
        finally:
            connection.close()
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(leave, (alice, charlie))) == [False, True]
    assert list(roles(acme).values()) == ["owner"]


def test_whoever_leaves_says_so_and_is_out(dora: User, alice: User, acme: Organization) -> None:
    assert call(dora, "POST", "members/leave", {"organization": "globex"})[0] == 400
    assert call(dora, "POST", "members/leave", {"organization": "acme"})[0] == 204
    assert call(dora, "GET", "members")[0] == 403
    entry = AuditEntry.objects.for_org(acme).latest("id")
    assert (entry.action, entry.before) == (
        "membership.left",
        {"user_id": dora.pk, "role": "developer"},
    )


def test_ownership_is_passed_on(alice: User, dora: User, bob: User, acme: Organization) -> None:
    assert call(alice, "POST", "ownership", {"user": bob.pk})[0] == 404
    assert call(alice, "POST", "ownership", {"user": alice.pk})[0] == 204
    assert roles(acme)["alice"] == "owner"
    assert call(alice, "POST", "ownership", {"user": dora.pk})[0] == 204
    assert roles(acme) == {"alice": "admin", "dora": "owner"}
    assert call(alice, "POST", "ownership", {"user": alice.pk})[0] == 403


def test_another_organizations_member_is_nobody(
    alice: User, bob: User, acme: Organization, globex: Organization
) -> None:
    by = caller(acme, alice, Role.OWNER)
    with pytest.raises(NoSuchMember):
        members.remove(by, BY, user=bob.pk, now=NOW)
    assert call(alice, "PATCH", f"members/{bob.pk}", {"role": "viewer"})[0] == 404
    assert call(alice, "DELETE", f"members/{10**30}")[0] == 404
    assert roles(globex) == {"bob": "owner"}
