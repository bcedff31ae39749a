"""Invitations: by letter, good once, for the address they went to, withdrawn and sent again."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.core import mail
from django.test import Client

from tenants import invitations, members, throttle, tokens
from tenants.accounts import addresses
from tenants.audit import Actor
from tenants.auth import NotYourRole
from tenants.invitations import AlreadyInvited, AlreadyMember, AnotherAddress, Letter, NotInvited
from tenants.members import TooManyMembers
from tenants.models import AuditEntry, Invitation, LogIn, Membership, Organization, Role, User
from tenants.organizations import TooManyOrganizations
from tenants.throttle import TooManyLetters
from tests import factories
from tests.factories import PASSWORD
from tests.tenants.test_members import caller
from tests.tenants.test_portal_doors import NOW

BY = Actor("user:1", "alice@example.com")

pytestmark = [pytest.mark.usefixtures("redis"), pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def _no_static_files(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path


@pytest.fixture
def charlie(charlie: User) -> User:
    """Whose address is confirmed."""
    addresses.confirm(charlie)
    return charlie


def invite(
    of: Organization, by: User, email: str, role: Role = Role.DEVELOPER
) -> tuple[Invitation, str]:
    letters: list[Letter] = []
    row = invitations.offer(
        caller(of, by, Role.OWNER), BY, email=email, role=role, send=letters.append, now=NOW
    )
    return row, letters[0].token


def test_it_is_accepted_once(acme: Organization, alice: User, charlie: User) -> None:
    row, token = invite(acme, alice, "  Charlie@Example.COM ")
    assert token not in str(list(Invitation.objects.for_org(acme).values()))
    member = invitations.accept(token, user=charlie, now=NOW)
    assert (member.organization, member.role) == (acme, Role.DEVELOPER)
    with pytest.raises(NotInvited):
        invitations.accept(token, user=charlie, now=NOW)
    actions = AuditEntry.objects.for_org(acme).values_list("action", flat=True)
    assert list(actions) == ["invitation.sent", "invitation.accepted"]
    row.refresh_from_db()
    assert row.accepted_by == charlie


def test_who_is_invited_comes_in_where_there_is_room(
    acme: Organization, alice: User, charlie: User, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, token = invite(acme, alice, charlie.email, Role.OWNER)
    settings.ORGANIZATIONS_EACH = 0
    with pytest.raises(TooManyOrganizations, match="owns 0"):
        invitations.accept(token, user=charlie, now=NOW)
    settings.ORGANIZATIONS_EACH = 1
    monkeypatch.setattr(members, "MOST", 1)
    with pytest.raises(TooManyMembers, match="1 members"):
        invitations.accept(token, user=charlie, now=NOW)
    monkeypatch.setattr(members, "MOST", 2)
    assert invitations.accept(token, user=charlie, now=NOW).role == Role.OWNER


def test_invitations_and_registrations_that_are_over_are_forgotten(
    acme: Organization, alice: User, charlie: User
) -> None:
    late = factories.user("late", date_joined=NOW - addresses.UNCONFIRMED_KEPT)
    slow = factories.user("slow", date_joined=NOW)
    for user in (late, slow):
        EmailAddress.objects.create(user=user, email=user.email, primary=True)
    _, token = invite(acme, alice, charlie.email)
    invitations.accept(token, user=charlie, now=NOW)
    row, _ = invite(acme, alice, "dora@example.com")
    invitations.withdraw(caller(acme, alice, Role.OWNER), BY, invitation=row.pk, now=NOW)
    invite(acme, alice, "open@example.com")
    assert invitations.purge(now=NOW + invitations.KEPT - timedelta(1)) == 0
    assert invitations.purge(now=NOW + invitations.KEPT) == 2
    assert Invitation.objects.for_org(acme).get().email == "open@example.com"
    assert addresses.purge(now=NOW) == 1
    assert {alice, charlie, slow} == set(User.objects.all())
    assert addresses.purge(now=NOW) == 0


def test_another_address_or_one_not_confirmed_is_refused(
    acme: Organization, alice: User, bob: User, charlie: User
) -> None:
    _, token = invite(acme, alice, "dora@example.com")
    dora = factories.user("dora")
    for user in (bob, charlie, dora):
        with pytest.raises(AnotherAddress):
            invitations.accept(token, user=user, now=NOW)
    assert Membership.objects.for_org(acme).count() == 1
    addresses.confirm(dora)
    assert invitations.accept(token, user=dora, now=NOW).user == dora


def test_expired_withdrawn_and_replaced_links_are_good_no_more(
    acme: Organization, alice: User, charlie: User
) -> None:
    by = caller(acme, alice, Role.OWNER)
    row, first = invite(acme, alice, "charlie@example.com")
    letters: list[Letter] = []
    late = NOW + timedelta(days=8)
    with pytest.raises(NotInvited, match="expired"):
        invitations.accept(first, user=charlie, now=late)
    invitations.resend(by, BY, invitation=row.pk, send=letters.append, now=late)
    with pytest.raises(NotInvited):
        invitations.accept(first, user=charlie, now=late)
    assert invitations.shown(letters[0].token, now=late) == row
    invitations.withdraw(by, BY, invitation=row.pk, now=late)
    with pytest.raises(NotInvited):
        invitations.accept(letters[0].token, user=charlie, now=late)


def test_members_and_the_invited_are_not_invited_again(acme: Organization, alice: User) -> None:
    with pytest.raises(AlreadyMember):
        invite(acme, alice, alice.email)
    invite(acme, alice, "charlie@example.com")
    with pytest.raises(AlreadyInvited):
        invite(acme, alice, "CHARLIE@example.com")


def test_nobody_is_written_to_without_end(
    acme: Organization,
    alice: User,
    globex: Organization,
    bob: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by, letters = caller(acme, alice, Role.OWNER), list[Letter]()
    row, _ = invite(acme, alice, "charlie@example.com")
    for _ in range(throttle.LETTERS_OF_BOTH - 1):
        invitations.resend(by, BY, invitation=row.pk, send=letters.append, now=NOW)
    with pytest.raises(TooManyLetters, match="to an address") as refused:
        invitations.resend(by, BY, invitation=row.pk, send=letters.append, now=NOW)
    assert len(letters) == throttle.LETTERS_OF_BOTH - 1
    assert 0 < (refused.value.retry_after or 0) <= 24 * 3600
    invitations.withdraw(by, BY, invitation=row.pk, now=NOW)
    with pytest.raises(TooManyLetters):
        invite(acme, alice, " CHARLIE@example.com")
    monkeypatch.setattr(throttle, "LETTERS_TO", throttle.LETTERS_OF_BOTH + 1)
    theirs, _ = invite(globex, bob, "charlie@example.com")
    bobs = caller(globex, bob, Role.OWNER)
    with pytest.raises(TooManyLetters):
        invitations.resend(bobs, BY, invitation=theirs.pk, send=letters.append, now=NOW)


def test_an_organization_has_so_many_letters_sent(
    acme: Organization, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "LETTERS_OF", 3)
    by = caller(acme, alice, Role.OWNER)
    for number in range(3):
        row, _ = invite(acme, alice, f"{number}@example.com")
        invitations.withdraw(by, BY, invitation=row.pk, now=NOW)
    with pytest.raises(TooManyLetters):
        invite(acme, alice, "another@example.com")


def test_owners_are_invited_by_owners_alone(acme: Organization, alice: User) -> None:
    admin = caller(acme, alice, Role.ADMIN)
    with pytest.raises(NotYourRole):
        invitations.offer(
            admin, BY, email="x@example.com", role=Role.OWNER, send=lambda _: None, now=NOW
        )
    row, _ = invite(acme, alice, "x@example.com", Role.OWNER)
    with pytest.raises(NotYourRole):
        invitations.withdraw(admin, BY, invitation=row.pk, now=NOW)


def test_who_comes_by_the_link_registers_without_a_second_letter(
    acme: Organization, alice: User, settings: Any
) -> None:
    settings.REGISTRATION_OPEN = False
    owner, guest = Client(), Client()
    owner.force_login(alice)
    owner.post("/o/acme/members", {"email": "dora@example.com", "role": "viewer"})
    [letter] = mail.outbox
    assert letter.to == ["dora@example.com"]
    found = re.search(r"http://testserver(/invitations/\S+)", str(letter.body))
    assert found
    page = guest.get(found[1]).content.decode()
    assert "Join Acme" in page
    form = {"email": "dora@example.com", "password1": PASSWORD, "next": found[1]}
    assert guest.post("/accounts/signup/", form)["Location"] == found[1]
    assert guest.post(found[1])["Location"] == "/o/acme/"
    assert guest.get("/o/acme/").status_code == 200
    assert guest.get("/o/acme/keys").status_code == 403
    assert [each.subject for each in mail.outbox] == [letter.subject]


def test_over_rest(acme: Organization, alice: User, charlie: User) -> None:
    def call(user: User, method: str, path: str, form: Any = None) -> tuple[int, Any]:
        login = LogIn(user=user, created_at=NOW, refreshed_at=NOW)
        pair = tokens.pair(user=user.pk, login=login.pk)
        login.token = pair.token
        login.save(force_insert=True)
        answer = Client().generic(
            method,
            f"/api/v1/{path}",
            json.dumps(form) if form is not None else "",
            content_type="application/json",
            headers={"Authorization": f"Bearer {pair.access}", "X-Organization": "acme"},
        )
        return answer.status_code, json.loads(answer.content or b"null")

    status, made = call(alice, "POST", "invitations", {"email": "charlie@example.com"})
    assert (status, made["state"], made["role"]) == (201, "open", "developer")
    assert call(alice, "POST", "invitations", {"email": "nobody"})[0] == 400
    assert call(alice, "POST", f"invitations/{made['id']}/resend", {})[0] == 200
    assert [each["email"] for each in call(alice, "GET", "invitations")[1]["data"]] == [
        "charlie@example.com"
    ]
    token = str(mail.outbox[-1].body).split("/invitations/")[1].split()[0]
    assert call(alice, "POST", "auth/invitations", {"token": token})[0] == 403
    assert call(charlie, "POST", "auth/invitations", {"token": token}) == (
        200,
        {"slug": "acme", "role": "developer"},
    )
    assert call(alice, "DELETE", f"invitations/{made['id']}")[0] == 404
