"""Entries are added, never changed, and whatever happens to them all the same is found."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Group
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction
from django.test import AsyncClient, Client
from redis import Redis

from kit import origin
from kit.origin import Origin
from tenants import anchors, audit, keys, organizations, tasks
from tenants.audit import Change
from tenants.models import AuditEntry, AuditHead, Membership, Organization, Plan, Role, User
from tests import factories

pytestmark = [pytest.mark.usefixtures("redis"), pytest.mark.django_db]

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _own_anchors(settings: Any, tmp_path: Path) -> None:
    """Begun, and empty."""
    settings.AUDIT_ANCHORS = tmp_path / "audit" / "anchors.jsonl"
    settings.AUDIT_ANCHORS.parent.mkdir()
    settings.AUDIT_ANCHORS.touch(0o600)


def entries(of: Organization | None) -> list[AuditEntry]:
    rows = AuditEntry.objects.across_organizations().filter(chain=of.pk if of else 0)
    return list(rows.order_by("id"))


def write(of: Organization, count: int) -> None:
    for number in range(count):
        change = Change("test.done", f"thing:{number}", {"n": number}, {"n": number + 1})
        audit.record(change, by=audit.SYSTEM, organization=of.pk, now=NOW)


@contextmanager
def by_force() -> Iterator[Any]:
    """As somebody who owns the database."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE tenants_auditentry DISABLE TRIGGER USER")
        yield cursor
        cursor.execute("ALTER TABLE tenants_auditentry ENABLE TRIGGER USER")


def found() -> list[tuple[int, str]]:
    return [(flaw.sequence, flaw.what.split(":")[0]) for flaw in anchors.verify(now=NOW)]


def test_an_entry_says_who_when_where_and_what(acme: Organization) -> None:
    origin.begin(Origin(ip_address("203.0.113.9"), "curl/8"))
    key, _ = factories.api_key(acme, name="ci")
    keys.revoke(key, now=NOW, by=audit.Actor("user:7", "alice@example.com"))
    made, revoked = entries(acme)
    assert (made.action, made.target, made.actor) == ("key.created", f"key:{key.pk}", "system")
    assert made.after["name"] == "ci"
    assert "hash" not in str(made.after)
    assert (revoked.action, revoked.actor_name) == ("key.revoked", "alice@example.com")
    assert (revoked.at, revoked.address, revoked.agent) == (NOW, "203.0.113.9", "curl/8")
    assert revoked.before == {"revoked_at": None}
    assert revoked.after == {"revoked_at": "2026-11-01T12:00:00.000000+00:00"}
    assert (made.sequence, revoked.sequence) == (1, 2)
    assert revoked.previous == made.hash


def test_what_changes_nothing_is_not_recorded(acme: Organization) -> None:
    key, _ = factories.api_key(acme)
    for _ in range(2):
        keys.revoke(key, now=NOW)
        organizations.suspend(acme, now=NOW, reason="unpaid")
    for _ in range(2):
        organizations.reinstate(acme, now=NOW)
    assert [each.action for each in entries(acme)] == [
        "key.created",
        "key.revoked",
        "organization.suspended",
        "organization.reinstated",
    ]


def test_a_change_that_is_rolled_back_leaves_no_entry(acme: Organization) -> None:
    key, _ = factories.api_key(acme)
    with transaction.atomic():
        keys.revoke(key, now=NOW)
        transaction.set_rollback(True)
    assert [each.action for each in entries(acme)] == ["key.created"]
    assert found() == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tenants_auditentry SET actor = 'nobody'",
        "DELETE FROM tenants_auditentry",
        "TRUNCATE tenants_auditentry",
    ],
)
def test_an_entry_is_never_changed(acme: Organization, statement: str) -> None:
    write(acme, 1)
    with (
        pytest.raises(DatabaseError, match="refused"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)


def test_two_entries_cannot_take_one_place(acme: Organization) -> None:
    write(acme, 1)
    again = entries(acme)[0]
    again.pk = None
    with pytest.raises(DatabaseError, match="one_entry_a_place"), transaction.atomic():
        again.save(force_insert=True)


def test_whole_chains_have_no_flaw(acme: Organization, globex: Organization) -> None:
    write(acme, 5)
    write(globex, 3)
    assert anchors.anchor(now=NOW) == 2
    assert found() == []
    assert entries(acme)[0].hash != entries(globex)[0].hash


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("actor", "user:666"),
        ("actor_name", "mallory"),
        ("at", "2026-11-01T12:00:00.000001+00:00"),
        ("address", "192.0.2.1"),
        ("agent", "other"),
        ("action", "test.undone"),
        ("target", "thing:0"),
        ("before", '{"n": 8}'),
        ("after", '{"n": 8}'),
        ("organization_id", "4711"),
    ],
)
def test_an_edited_entry_is_found(acme: Organization, column: str, value: str) -> None:
    write(acme, 3)
    with by_force() as cursor:
        edit = f"UPDATE tenants_auditentry SET {column} = %s WHERE sequence = 2"  # noqa: S608
        cursor.execute(edit, [value])
    assert found() == [(2, "edited")]


def test_an_edited_entry_with_a_fitting_hash_is_found(acme: Organization) -> None:
    write(acme, 3)
    entry = entries(acme)[1]
    entry.actor = "user:666"
    with by_force() as cursor:
        cursor.execute(
            "UPDATE tenants_auditentry SET actor = %s, hash = %s WHERE sequence = 2",
            [entry.actor, audit.seal(entry)],
        )
    assert found() == [(3, "does not follow the entry before it")]


def test_a_removed_entry_is_found(acme: Organization) -> None:
    write(acme, 3)
    with by_force() as cursor:
        cursor.execute("DELETE FROM tenants_auditentry WHERE sequence = 2")
    assert found() == [(2, "missing")]


def test_reordered_entries_are_found(acme: Organization) -> None:
    write(acme, 4)
    with by_force() as cursor:
        for old, new in ((2, 99), (3, 2), (99, 3)):
            cursor.execute(
                "UPDATE tenants_auditentry SET sequence=%s WHERE sequence=%s", [new, old]
            )
    assert {sequence for sequence, _ in found()} >= {2, 3}


def test_a_cut_off_tail_is_found_by_the_head(acme: Organization) -> None:
    write(acme, 4)
    with by_force() as cursor:
        cursor.execute("DELETE FROM tenants_auditentry WHERE sequence > 2")
    assert found() == [(3, "cut off")]


def test_a_tail_cut_off_with_its_head_is_found_by_the_anchor(acme: Organization) -> None:
    write(acme, 4)
    anchors.anchor(now=NOW)
    with by_force() as cursor:
        cursor.execute("DELETE FROM tenants_auditentry WHERE sequence > 2")
    last = entries(acme)[-1]
    AuditHead.objects.filter(chain=acme.pk).update(sequence=2, hash=last.hash)
    assert found() == [(4, "cut off")]


def test_a_whole_chain_that_is_gone_is_found_by_the_anchor(acme: Organization) -> None:
    write(acme, 2)
    anchors.anchor(now=NOW)
    with by_force() as cursor:
        cursor.execute("DELETE FROM tenants_auditentry")
        cursor.execute("DELETE FROM tenants_audithead")
    assert found() == [(2, "cut off")]


def test_a_chain_written_anew_is_found_by_the_anchor(acme: Organization) -> None:
    write(acme, 2)
    anchors.anchor(now=NOW)
    with by_force() as cursor:
        cursor.execute("DELETE FROM tenants_auditentry")
        cursor.execute("DELETE FROM tenants_audithead")
    audit.record(Change("a.b", "c"), by=audit.NOBODY, organization=acme.pk, now=NOW)
    audit.record(Change("a.b", "d"), by=audit.NOBODY, organization=acme.pk, now=NOW)
    assert found() == [(2, f"not the entry that was anchored on {NOW.isoformat()}".split(":")[0])]


def test_only_heads_that_moved_are_anchored_again(
    acme: Organization, globex: Organization, settings: Any
) -> None:
    write(acme, 1)
    write(globex, 1)
    assert [tasks.anchor_audit(), tasks.anchor_audit()] == [2, 0]
    write(acme, 1)
    assert tasks.anchor_audit() == 1
    assert [each.chain for each in anchors.anchored()] == [acme.pk, globex.pk, acme.pk]
    assert settings.AUDIT_ANCHORS.stat().st_mode & 0o777 == 0o600


def test_a_file_of_anchors_that_is_gone_is_missed_and_no_other_is_begun_unasked(
    acme: Organization, settings: Any
) -> None:
    settings.AUDIT_ANCHORS.unlink()
    write(acme, 4)
    assert found() == [], "of a fresh platform nothing is expected"
    assert anchors.anchor(now=NOW) == 2
    settings.AUDIT_ANCHORS = settings.AUDIT_ANCHORS.with_name("another_replicas.jsonl")
    with by_force() as cursor:
        cursor.execute(
            "DELETE FROM tenants_auditentry WHERE chain = %s AND sequence > 2", [acme.pk]
        )
    AuditHead.objects.filter(chain=acme.pk).update(sequence=2, hash=entries(acme)[-1].hash)
    assert found() == [(1, "anchors gone")]
    with pytest.raises(anchors.AnchorsMissing, match="another_replicas"):
        anchors.anchor(now=NOW)
    with pytest.raises(CommandError, match="--anew"):
        call_command("audit", "anchor")
    assert found() == [(1, "anchors gone")], "trying changes nothing"
    call_command("audit", "anchor", "--anew")
    assert [each.action for each in entries(None)] == ["audit.anchors_begun"] * 2
    assert found() == []


def test_entries_that_nobody_has_anchored_for_days_are_a_flaw(
    acme: Organization, globex: Organization
) -> None:
    for each in (acme, globex):
        write(each, 2)
    later = NOW + timedelta(days=3)
    [flaw] = anchors.verify(now=later)
    assert (flaw.sequence, "not anchored" in flaw.what) == (2, True)
    anchors.anchor(now=NOW)
    assert list(anchors.verify(now=later)) == []
    write(globex, 1)
    assert [(flaw.chain, flaw.sequence) for flaw in anchors.verify(now=later)] == [(globex.pk, 3)]


def test_a_line_that_a_crash_tore_is_ended_and_told_and_stops_nothing(
    acme: Organization, settings: Any
) -> None:
    write(acme, 1)
    anchors.anchor(now=NOW)
    with settings.AUDIT_ANCHORS.open("a") as file:
        file.write('{"at": "2026-11-01T12:00:00+00:00", "chain"')
    write(acme, 1)
    torn = (0, "line 2 of the anchors does not read")
    assert found() == [torn]
    assert anchors.anchor(now=NOW) == 1
    assert [each.sequence for each in anchors.anchored()] == [1, 2]
    assert found() == [torn]


def test_the_command_ends_with_one_where_something_is_wrong(
    acme: Organization, capsys: pytest.CaptureFixture[str]
) -> None:
    write(acme, 2)
    call_command("audit", "anchor")
    call_command("audit", "verify")
    assert "1 chains whole" in capsys.readouterr().out
    with by_force() as cursor:
        cursor.execute("UPDATE tenants_auditentry SET actor = 'x' WHERE sequence = 2")
    with pytest.raises(CommandError, match="1 flaws"):
        call_command("audit", "verify")
    assert f"organization {acme.pk}, entry 2: edited" in capsys.readouterr().out


def test_the_same_values_come_back_as_they_were_sealed(acme: Organization) -> None:
    odd = {"ü": "\0a\u2028", "n": 2**60, "b": True, "d": NOW, "s": {"b", "a"}, "x": 1.5, "l": [{}]}
    audit.record(Change("a.b", "c", after=odd), by=audit.NOBODY, organization=acme.pk, now=NOW)
    assert found() == []


@pytest.fixture
def operator(client: Client, settings: Any, tmp_path: Path) -> Client:
    settings.STATIC_ROOT = tmp_path
    staff = factories.user("operator", is_staff=True, is_superuser=True)
    client.force_login(staff)
    return client


def last(of: Organization | None) -> tuple[str, str, str, dict[str, Any], dict[str, Any]]:
    entry = entries(of)[-1]
    return entry.action, entry.target, entry.actor_name, entry.before, entry.after


def test_operators_changes_are_recorded(operator: Client, alice: User, acme: Organization) -> None:
    limits = {"requests_per_minute": 5, "tokens_per_minute": 0, "concurrent_requests": 0}
    place = Membership.objects.for_org(acme).get()
    form = {
        "name": "Acme",
        "priority": 1,
        "retention": "answers",
        "kept_days": 30,
        **limits,
        "suspended_at_0": "",
        "suspended_at_1": "",
        "suspended_reason": "",
        "model_limits-TOTAL_FORMS": 0,
        "model_limits-INITIAL_FORMS": 0,
        "memberships-TOTAL_FORMS": 1,
        "memberships-INITIAL_FORMS": 1,
        "memberships-0-id": place.pk,
        "memberships-0-organization": acme.pk,
        "memberships-0-user": alice.pk,
        "memberships-0-role": "viewer",
    }
    path = f"/admin/tenants/organization/{acme.pk}/change/"
    assert operator.post(path, form).status_code == 302
    of_limits, of_role = entries(acme)[-2:]
    assert (of_limits.action, of_limits.target) == ("organization.changed", "organization:acme")
    assert of_limits.before == {"requests_per_minute": 0}
    assert of_limits.after == {"requests_per_minute": 5}
    assert (of_role.action, of_role.target) == ("membership.changed", f"membership:{place.pk}")
    assert (of_role.before, of_role.after) == ({"role": "owner"}, {"role": "viewer"})
    assert of_role.actor_name == "operator@example.com"
    assert of_role.address == "127.0.0.1"


def test_an_operators_membership_changes_are_recorded(
    operator: Client, charlie: User, acme: Organization
) -> None:
    add = {"user": charlie.pk, "organization": acme.pk, "role": "developer"}
    operator.post("/admin/tenants/membership/add/", add)
    place = Membership.objects.for_org(acme).get()
    assert last(acme)[0] == "membership.created"
    assert last(acme)[4]["role"] == "developer"
    operator.post(f"/admin/tenants/membership/{place.pk}/delete/", {"post": "yes"})
    assert last(acme)[0] == "membership.deleted"
    assert last(acme)[3]["user_id"] == charlie.pk
    assert found() == []


def test_ticked_rows_are_recorded_when_they_are_deleted(
    operator: Client, alice: User, charlie: User, acme: Organization
) -> None:
    factories.member(charlie, acme, Role.VIEWER)
    ticked = [each.pk for each in Membership.objects.for_org(acme)]
    action = {"action": "delete_selected", "post": "yes", "_selected_action": ticked}
    operator.post("/admin/tenants/membership/", action)
    assert not Membership.objects.for_org(acme).exists()
    assert [each.action for each in entries(acme)] == ["membership.deleted"] * 2


def test_keys_made_and_changed_by_operators_are_recorded_once(
    operator: Client, acme: Organization
) -> None:
    limits = {"requests_per_minute": 0, "tokens_per_minute": 0, "concurrent_requests": 0}
    form = {"name": "ci", "scopes": ["usage"], "models": "", **limits}
    new = {"organization": acme.pk, "environment": "live", **form}
    operator.post("/admin/tenants/apikey/add/", new)
    assert [each.action for each in entries(acme)] == ["key.created"]
    assert last(acme)[2] == "operator@example.com"
    key = acme.api_keys.across_organizations().get()
    form["scopes"] = ["usage", "inference"]
    operator.post(f"/admin/tenants/apikey/{key.pk}/change/", form)
    assert last(acme)[3:] == ({"scopes": ["usage"]}, {"scopes": ["usage", "inference"]})
    operator.post(
        "/admin/tenants/apikey/", {"action": "revoke_chosen", "_selected_action": [key.pk]}
    )
    assert last(acme)[0] == "key.revoked"
    assert last(acme)[2] == "operator@example.com"


def test_a_password_set_by_an_operator_is_recorded_without_it(
    operator: Client, alice: User
) -> None:
    form = {
        "usable_password": "true",
        "password1": factories.PASSWORD,
        "password2": factories.PASSWORD,
    }
    assert operator.post(f"/admin/tenants/user/{alice.pk}/password/", form).status_code == 302
    assert last(None)[:2] == ("user.password_changed", f"user:{alice.pk}")
    assert "argon2" not in str(last(None))
    assert factories.PASSWORD not in str(last(None))


def test_log_ins_of_operators_are_recorded_and_those_that_fail(
    client: Client, settings: Any, tmp_path: Path, alice: User
) -> None:
    settings.STATIC_ROOT = tmp_path
    factories.user("operator", password=factories.PASSWORD, is_staff=True)
    for name, password in (("operator", "wrong"), ("Operator", factories.PASSWORD)):
        form = {"username": f"{name}@example.com", "password": password}
        client.post("/admin/login/", form)
    failed, done = entries(None)
    assert (failed.action, failed.after) == (
        "operator.login_failed",
        {"email": "operator@example.com", "door": "admin"},
    )
    assert (done.action, done.actor_name, done.address) == (
        "operator.logged_in",
        "operator@example.com",
        "127.0.0.1",
    )


def test_whether_a_plan_caches_answers_is_set_by_operators_and_recorded(operator: Client) -> None:
    plan = Plan.objects.create(name="Small")
    form = dict.fromkeys(("requests_per_minute", "tokens_per_minute", "concurrent_requests"), 0)
    form |= {"model_limits-TOTAL_FORMS": 0, "model_limits-INITIAL_FORMS": 0}
    path = f"/admin/tenants/plan/{plan.pk}/change/"
    sent = operator.post(path, {**form, "name": "Small", "caching": "exact"})
    assert sent.status_code == 302, sent.context["adminform"].form.errors
    assert last(None)[0] == "plan.changed"
    assert last(None)[3:] == ({"caching": "off"}, {"caching": "exact"})


def test_credit_and_prices_set_by_operators_are_recorded(
    operator: Client, acme: Organization
) -> None:
    account = factories.account(acme, credit_limit=10**9)
    form = {"credit_limit": "2.5"}
    assert operator.post(f"/admin/billing/account/{account.pk}/change/", form).status_code == 302
    assert last(acme)[0] == "account.changed"
    assert last(acme)[3:] == ({"credit_limit": 10**9}, {"credit_limit": 25 * 10**8})
    price = {
        "model": "m",
        "currency": "EUR",
        "input_tokens": "0.05",
        "output_tokens": "",
        "effective_from_0": "2040-01-01",
        "effective_from_1": "00:00:00",
    }
    assert operator.post("/admin/billing/priceversion/add/", price).status_code == 302
    assert last(None)[0] == "price.created"
    assert last(None)[4]["rates"] == {"input_tokens": 50_000_000}
    assert found() == []


def test_rights_given_to_an_operator_are_recorded(operator: Client, alice: User) -> None:
    group = Group.objects.create(name="support")
    form = {
        "email": alice.email,
        "is_active": "on",
        "is_staff": "on",
        "groups": [group.pk],
        "date_joined_0": "2026-01-01",
        "model_limits-TOTAL_FORMS": 0,
        "model_limits-INITIAL_FORMS": 0,
        "memberships-TOTAL_FORMS": 0,
        "memberships-INITIAL_FORMS": 0,
    }
    assert operator.post(f"/admin/tenants/user/{alice.pk}/change/", form).status_code == 302
    action, target, _, before, after = last(None)
    assert (action, target) == ("user.changed", f"user:{alice.pk}")
    assert (before["groups"], after["groups"]) == ([], [group.pk])
    assert (before["is_staff"], after["is_staff"]) == (False, True)


def test_operators_read_the_log_and_change_nothing(operator: Client, acme: Organization) -> None:
    write(acme, 1)
    entry = entries(acme)[0]
    for path in ("", f"{entry.pk}/change/", "?q=test.done"):
        page = operator.get(f"/admin/tenants/auditentry/{path}")
        assert page.status_code == 200
        assert "thing:0" in page.content.decode()
    for path in ("add/", f"{entry.pk}/delete/"):
        assert operator.post(f"/admin/tenants/auditentry/{path}").status_code == 403
    assert operator.post(f"/admin/tenants/auditentry/{entry.pk}/change/", {}).status_code == 403


@pytest.fixture
def auditor(transactional_db: None, redis: Redis, acme: Organization) -> str:
    return factories.api_key(acme, name="auditor", scopes=["audit"])[1]


async def ask(key: str, path: str = "", **query: Any) -> Any:
    headers = {"Authorization": f"Bearer {key}"}
    return await AsyncClient().get(f"/api/v1/audit{path}", query, headers=headers)


def test_the_log_is_read_newest_first_in_pages(
    auditor: str, acme: Organization, globex: Organization
) -> None:
    write(acme, 4)
    write(globex, 3)
    get = async_to_sync(ask)
    first = get(auditor, limit=3).json()
    assert [each["sequence"] for each in first["data"]] == [5, 4, 3]
    assert first["next"] == 3
    write(acme, 1)
    second = get(auditor, limit=3, before=first["next"]).json()
    assert [each["sequence"] for each in second["data"]] == [2, 1]
    assert second["next"] is None
    assert second["data"][1]["action"] == "key.created"


def test_the_log_is_filtered(auditor: str, acme: Organization) -> None:
    write(acme, 3)
    get = async_to_sync(ask)

    def seen(**query: Any) -> list[int]:
        return [each["sequence"] for each in get(auditor, **query).json()["data"]]

    @async_to_sync
    async def export(part: str) -> list[int]:
        lines = [each async for each in await ask(auditor, "/export", q=part)]
        return [json.loads(line)["sequence"] for line in b"".join(lines).splitlines()]

    assert seen(action="key.") == [1]
    assert seen(target="thing:1") == [3]
    assert seen(actor="system", action="test.done") == [4, 3, 2]
    assert seen(actor="user:1") == []
    later = (NOW + timedelta(seconds=1)).isoformat()
    assert seen(until=later, since=NOW.isoformat()) == [4, 3, 2]
    assert seen(until=NOW.isoformat()) == []
    far = timezone(timedelta(hours=23))
    assert seen(until=later, since=NOW.astimezone(far).isoformat()) == [4, 3, 2]
    where = Origin(ip_address("203.0.113.9"))
    who = audit.Actor("user:7", "Ann@example.com")
    audit.record(Change("a.b", "x_y"), by=who, organization=acme.pk, now=NOW, where=where)
    for part in ("ann@EX", "113.9", "a.B", "user:7", "x_y"):
        assert seen(q=part) == [5], part
        assert export(part) == [5], part
    assert seen(q="%") == seen(q="ann@example.com", action="test.") == seen(q="x-y") == []
    for bad in (
        {"since": "yesterday"},
        {"since": "2026-11-01T12:00:00"},
        {"since": "0001-01-01T00:00:00+16:00"},
        {"limit": 501},
        {"limit": 0},
        {"before": 0},
        {"actr": "x"},
        {"actor": "a\0"},
        {"q": "x" * 255},
    ):
        assert get(auditor, **bad).status_code == 400, bad


def test_the_export_is_whole_and_can_be_checked(auditor: str, acme: Organization) -> None:
    evil = audit.Actor("nobody", '=HYPERLINK("http://evil.example")')
    audit.record(Change("a.b", "c"), by=evil, organization=acme.pk, now=NOW)
    write(acme, 600)

    @async_to_sync
    async def export(form: str) -> tuple[Any, str]:
        response = await ask(auditor, "/export", format=form)
        return response, b"".join([part async for part in response]).decode()

    response, text = export("jsonl")
    lines = [json.loads(line) for line in text.splitlines()]
    assert [each["sequence"] for each in lines] == list(range(1, 603))
    assert all(each["previous"] == before["hash"] for before, each in pairwise(lines))
    assert response["Content-Disposition"].startswith('attachment; filename="audit-acme-')
    rows = list(csv.DictReader(io.StringIO(export("csv")[1])))
    assert len(rows) == 602
    assert rows[1]["actor_name"].startswith("'=HYPERLINK")
    assert async_to_sync(ask)(auditor, "/export", format="xml").status_code == 400
