"""API keys over REST: shown once, bounded, rotated, revoked; and never more than their maker's."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ValidationError
from django.test import AsyncClient
from kombu.exceptions import OperationalError as BrokerAway
from redis import Redis

from kit import origin
from kit.origin import Origin
from kit.redis import async_state
from tenants import auth, keyring, keys, known, roles, tasks, throttle, uses
from tenants.audit import Actor
from tenants.keyring import Manager, MoreThanYours, NotYours
from tenants.models import ApiKey, AuditEntry, Organization, Role, User
from tests import factories

pytestmark = [pytest.mark.usefixtures("redis"), pytest.mark.django_db(transaction=True)]

LATER = (datetime.now(UTC) + timedelta(days=9)).isoformat()


@pytest.fixture
def boss(acme: Organization) -> str:
    """A key that may manage keys."""
    return factories.api_key(acme, name="boss", scopes=["keys", "inference", "usage"])[1]


def call(key: str | None, method: str, path: str = "", form: Any = None) -> tuple[int, Any]:
    @async_to_sync
    async def run() -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        response = await AsyncClient().generic(
            method,
            f"/api/v1/keys{path}",
            json.dumps(form) if form is not None else "",
            content_type="application/json",
            headers=headers,
        )
        await async_state().aclose()
        return response.status_code, response.json()

    return run()


def works(text: str, address: str = "") -> bool:
    async def run() -> bool:
        if address:
            origin.begin(Origin(ip_address(address)))
        try:
            await auth.authenticate(f"Bearer {text}")
        except (keys.Unauthenticated, auth.Elsewhere):
            return False
        finally:
            await async_state().aclose()
        return True

    known.KEYS.forget()
    return asyncio.run(run())


def test_an_organization_has_so_many_living_keys(
    boss: str, acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "MOST", 3)
    factories.api_key(acme, expires_at=datetime.now(UTC) - timedelta(1))
    made = [call(boss, "POST", "", {"name": "another"}) for _ in range(3)]
    assert [status for status, _ in made] == [201, 201, 409]
    assert (made[2][1]["code"], "3 API keys" in made[2][1]["detail"]) == ("too_many_keys", True)
    assert call(boss, "POST", f"/{made[0][1]['id']}/rotate", {})[0] == 201
    assert call(boss, "DELETE", f"/{made[1][1]['id']}")[0] == 200


def test_of_keys_that_are_dead_the_oldest_give_way(
    boss: str, acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "MOST_KEPT", 3)
    factories.api_key(acme, name="expired", expires_at=datetime.now(UTC) - timedelta(1))
    for number in range(3):
        made = call(boss, "POST", "", {"name": str(number)})[1]
        assert call(boss, "DELETE", f"/{made['id']}")[0] == 200
    names = [each["name"] for each in call(boss, "GET")[1]["data"]]
    assert names == ["2", "1", "boss"], "those that live stay"


def test_a_key_is_made_and_shown_once(boss: str, acme: Organization) -> None:
    form = {
        "name": "ci",
        "environment": "test",
        "scopes": ["inference"],
        "models": ["m"],
        "networks": ["192.0.2.0/24", "2001:DB8::1"],
        "expires_at": LATER,
        "requests_per_minute": 9,
    }
    status, made = call(boss, "POST", "", form)
    assert status == 201
    text = made.pop("key")
    assert keys.parse(text).is_of(ApiKey.objects.for_org(acme).get(pk=made["id"]).secret_hash)
    assert works(text, "192.0.2.7")
    assert made["networks"] == ["192.0.2.0/24", "2001:db8::1/128"]
    assert (made["state"], made["requests_per_minute"], made["models"]) == ("active", 9, ["m"])
    status, read = call(boss, "GET", f"/{made['id']}")
    assert (status, read) == (200, made)
    status, page = call(boss, "GET")
    assert [each["name"] for each in page["data"]] == ["ci", "boss"]
    assert text not in json.dumps([read, page])
    assert "hash" not in json.dumps([read, page])


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a\u0000b"}, "name"),
        ({"name": "x" * 121}, "name"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["root"]}, "scopes.0"),
        ({"name": "x", "networks": ["192.0.2.1/24"]}, "networks.0"),
        ({"name": "x", "networks": ["example.com"]}, "networks.0"),
        ({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "x", "expires_at": "2040-01-01T00:00:00"}, "expires_at"),
        ({"name": "x", "requests_per_minute": -1}, "requests_per_minute"),
        ({"name": "x", "requests_per_minute": 2**31}, "requests_per_minute"),
        ({"name": "x", "id": "mine"}, "id"),
    ],
)
def test_a_key_that_does_not_fit_is_refused_by_name(boss: str, form: Any, param: str) -> None:
    status, said = call(boss, "POST", "", form)
    assert (status, said["param"]) == (400, param)


def test_keys_are_listed_in_pages(boss: str) -> None:
    for number in range(4):
        call(boss, "POST", "", {"name": f"k{number}"})
    _, first = call(boss, "GET", "?limit=3")
    assert [each["name"] for each in first["data"]] == ["k3", "k2", "k1"]
    _, second = call(boss, "GET", f"?limit=3&after={first['next']}")
    assert [each["name"] for each in second["data"]] == ["k0", "boss"]
    assert second["next"] is None


def test_a_key_is_changed_everywhere_within_a_second(boss: str, acme: Organization) -> None:
    key, text = factories.api_key(acme, networks=["192.0.2.0/24"], expires_at=LATER)
    assert works(text, "192.0.2.1")
    form = {"networks": ["2001:db8::/32"], "expires_at": None, "name": "renamed"}
    status, changed = call(boss, "PATCH", f"/{key.pk}", form)
    assert status == 200
    assert (changed["name"], changed["expires_at"]) == ("renamed", None)
    assert not works(text, "192.0.2.1")
    assert works(text, "2001:db8::7")
    entry = AuditEntry.objects.for_org(acme).latest("id")
    assert (entry.action, entry.before["networks"]) == ("key.changed", ["192.0.2.0/24"])
    assert entry.actor_name == "boss"
    assert call(boss, "PATCH", f"/{key.pk}", {})[0] == 400
    assert call(boss, "PATCH", f"/{key.pk}", {"name": None})[0] == 400


def test_a_key_is_revoked_for_good(boss: str, acme: Organization) -> None:
    key, text = factories.api_key(acme)
    assert works(text)
    assert call(boss, "DELETE", f"/{key.pk}")[1]["state"] == "revoked"
    assert not works(text)
    assert call(boss, "DELETE", f"/{key.pk}")[0] == 200
    for method, path, form in (("PATCH", "", {"name": "x"}), ("POST", "/rotate", {})):
        status, said = call(boss, method, f"/{key.pk}{path}", form)
        assert (status, said["code"]) == (409, "key_not_active")


def test_a_rotated_key_lives_on_for_its_grace(boss: str, acme: Organization) -> None:
    key, old = factories.api_key(acme, name="ci", scopes=["usage"], networks=["192.0.2.0/24"])
    status, new = call(boss, "POST", f"/{key.pk}/rotate", {"grace_seconds": 3600})
    assert status == 201
    assert (new["name"], new["scopes"], new["replaces"]) == ("ci", ["usage"], key.pk)
    assert new["networks"] == ["192.0.2.0/24"]
    assert works(old, "192.0.2.1")
    assert works(new["key"], "192.0.2.1")
    key.refresh_from_db()
    assert key.expires_at is not None
    assert timedelta(0) < key.expires_at - datetime.now(UTC) <= timedelta(hours=1)
    call(boss, "POST", f"/{new['id']}/rotate", {"grace_seconds": 0})
    assert not works(new["key"], "192.0.2.1")
    actions = AuditEntry.objects.for_org(acme).order_by("id").values_list("action", flat=True)
    assert list(actions)[-2:] == ["key.created", "key.rotated"]


def test_rotation_does_not_lengthen_a_life(boss: str, acme: Organization) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=5)
    key, _ = factories.api_key(acme, expires_at=soon)
    _, new = call(boss, "POST", f"/{key.pk}/rotate", {})
    key.refresh_from_db()
    assert key.expires_at == soon
    assert datetime.fromisoformat(new["expires_at"]) == soon


def test_another_organizations_key_is_not_there(boss: str, globex: Organization) -> None:
    key, text = factories.api_key(globex)
    for method, path, form in (
        ("GET", "", None),
        ("PATCH", "", {"name": "x"}),
        ("DELETE", "", None),
        ("POST", "/rotate", {}),
    ):
        assert call(boss, method, f"/{key.pk}{path}", form)[0] == 404
    assert call(boss, "GET", f"?after={key.pk}")[0] == 404
    assert works(text)


@pytest.mark.parametrize(
    ("own", "more", "less"),
    [
        ({}, {"scopes": ["audit"]}, {"scopes": ["keys"]}),
        ({"models": ["a", "b"]}, {}, {"models": ["a"]}),
        ({"models": ["a", "b"]}, {"models": ["c"]}, {"models": ["b", "a"]}),
        ({"expires_at": LATER}, {}, {"expires_at": LATER}),
        ({"networks": ["192.0.2.0/24"]}, {}, {"networks": ["192.0.2.128/25"]}),
        (
            {"networks": ["192.0.2.0/24"]},
            {"networks": ["192.0.2.0/23"]},
            {"networks": ["192.0.2.7"]},
        ),
        ({"networks": ["::/0", "10.0.0.0/8"]}, {"networks": ["11.0.0.1"]}, {"networks": ["::1"]}),
        ({"requests_per_minute": 5}, {}, {"requests_per_minute": 5}),
        ({"tokens_per_minute": 5}, {"tokens_per_minute": 6}, {"tokens_per_minute": 1}),
    ],
)
def test_a_key_makes_no_key_that_may_more(
    acme: Organization, own: Any, more: Any, less: Any
) -> None:
    key, _ = factories.api_key(acme, scopes=["keys", "inference"], **own)
    other, _ = factories.api_key(acme, scopes=["audit"])
    key.refresh_from_db()
    scopes = frozenset(key.scopes)
    by = Manager(factories.caller(organization=acme.pk, key=key.pk, scopes=scopes), Actor("x"))
    plain: dict[str, Any] = {"name": "x", "scopes": ["inference"]}
    now = datetime.now(UTC)

    def fields(of: dict[str, Any]) -> dict[str, Any]:
        wish = plain | of
        if "expires_at" in wish:
            wish["expires_at"] = datetime.fromisoformat(wish["expires_at"])
        return wish

    with pytest.raises(MoreThanYours):
        keyring.make(by, fields(more))
    made, _ = keyring.make(by, fields(less))
    with pytest.raises(MoreThanYours):
        keyring.change(
            by,
            made.pk,
            {"models": [], "networks": []} | fields(more)
            if more
            else {
                "models": [],
                "networks": [],
                "expires_at": None,
                "requests_per_minute": 0,
            },
            now=now,
        )
    with pytest.raises(MoreThanYours):
        keyring.rotate(by, other.pk, grace=timedelta(0), now=now)
    assert ApiKey.objects.for_org(acme).filter(revoked_at=None, name="x").count() == 1


def test_a_developer_manages_their_own_keys_alone(acme: Organization, charlie: User) -> None:
    factories.member(charlie, acme, Role.DEVELOPER)
    caller = factories.caller(
        organization=acme.pk,
        user=charlie.pk,
        role=Role.DEVELOPER,
        scopes=roles.scopes_of(Role.DEVELOPER),
    )
    by, now = Manager(caller, Actor("x")), datetime.now(UTC)
    other, _ = factories.api_key(acme)
    key, _ = keyring.make(by, {"name": "mine", "scopes": ["inference"]})
    keyring.change(by, key.pk, {"name": "still mine"}, now=now)
    keyring.revoke(by, key.pk, now=now)
    with pytest.raises(MoreThanYours):
        keyring.make(by, {"name": "more", "scopes": ["keys"]})
    for act in (
        lambda: keyring.change(by, other.pk, {"name": "x"}, now=now),
        lambda: keyring.revoke(by, other.pk, now=now),
        lambda: keyring.rotate(by, other.pk, grace=timedelta(0), now=now),
    ):
        with pytest.raises(NotYours):
            act()


def test_whoever_finds_a_key_ends_it(acme: Organization) -> None:
    key, text = factories.api_key(acme)
    wrong = keys._spell("live", key.pk, "0" * 32)
    unknown = keys._spell("live", "0" * 12, "0" * 32)
    for other in (wrong, unknown):
        assert call(None, "POST", "/leaked", {"key": other}) == (200, {"revoked": False})
    assert works(text)
    assert call(None, "POST", "/leaked", {"key": text}) == (200, {"revoked": True})
    assert not works(text)
    assert call(None, "POST", "/leaked", {"key": "sk-abc"})[0] == 401
    for _ in range(throttle.OF_BOTH):
        answer = call(None, "POST", "/leaked", {"key": unknown})
    assert answer[0] == 429
    entry = AuditEntry.objects.for_org(acme).latest("id")
    assert (entry.action, entry.actor, entry.address) == (
        "key.reported_leaked",
        "nobody",
        "127.0.0.1",
    )


def test_owners_hear_of_a_leaked_key_and_so_does_whose_it_was(
    acme: Organization, alice: User, charlie: User, mailoutbox: list[Any]
) -> None:
    factories.member(charlie, acme, Role.DEVELOPER)
    factories.member(factories.user("dora"), acme, Role.DEVELOPER)
    key, text = factories.api_key(acme, name="ci", person=charlie)
    asked: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tasks.tell_of_leak, "apply_async", lambda kwargs, **_: asked.append(kwargs["key"])
        )
        call(None, "POST", "/leaked", {"key": text})
    assert asked == [key.pk]
    assert tasks.tell_of_leak(key=key.pk, unknown=1) == 2
    assert [mail.to for mail in mailoutbox] == [["alice@example.com"], ["charlie@example.com"]]
    assert "'ci'" in mailoutbox[0].body
    assert f"aip_live_{key.pk}_…" in mailoutbox[0].body
    assert text not in mailoutbox[0].body


def test_owners_hear_of_it_where_no_worker_can_be_told(
    acme: Organization, alice: User, mailoutbox: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(**_: Any) -> None:
        raise BrokerAway("Connection refused")

    monkeypatch.setattr(tasks.tell_of_leak, "apply_async", away)
    _, text = factories.api_key(acme)
    assert call(None, "POST", "/leaked", {"key": text}) == (200, {"revoked": True})
    assert [mail.to for mail in mailoutbox] == [["alice@example.com"]]


def test_a_persons_key_goes_with_them_and_a_service_accounts_stays(
    acme: Organization, alice: User, charlie: User, boss: str
) -> None:
    member = factories.member(charlie, acme, Role.ADMIN)
    owner = factories.caller(
        organization=acme.pk,
        user=charlie.pk,
        person=charlie.pk,
        role=Role.ADMIN,
        scopes=roles.scopes_of(Role.ADMIN),
    )
    by = Manager(owner, Actor("x"))
    own, text = keyring.make(by, {"name": "mine"})
    service, other = keyring.make(by, {"name": "ci"}, service_account=True)
    assert (own.person, service.person) == (charlie, None)
    assert works(text)
    assert works(other)
    member.delete()
    known.MEMBERS.forget()
    assert not works(text)
    assert works(other)
    assert call(boss, "GET", f"/{service.pk}")[1]["service_account"] is True


def test_a_persons_key_may_no_more_than_their_role(acme: Organization, charlie: User) -> None:
    member = factories.member(charlie, acme, Role.DEVELOPER)
    _, text = factories.api_key(acme, person=charlie, scopes=["inference", "usage", "keys"])

    def scopes() -> frozenset[str]:
        async def run() -> frozenset[str]:
            try:
                return (await auth.authenticate(f"Bearer {text}")).scopes
            finally:
                await async_state().aclose()

        known.MEMBERS.forget()
        return asyncio.run(run())

    assert scopes() == {"inference", "usage"}
    member.role = Role.VIEWER
    member.save()
    assert scopes() == {"usage"}


def test_a_developer_makes_no_service_account(acme: Organization, charlie: User) -> None:
    caller = factories.caller(
        organization=acme.pk,
        user=charlie.pk,
        person=charlie.pk,
        role=Role.DEVELOPER,
        scopes=roles.scopes_of(Role.DEVELOPER),
    )
    with pytest.raises(NotYours, match="leave out service_account"):
        keyring.make(Manager(caller, Actor("x")), {"name": "ci"}, service_account=True)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("192.0.2.255", True),
        ("192.0.3.0", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("", False),
    ],
)
def test_a_key_is_used_from_its_networks_alone(
    acme: Organization, address: str, allowed: bool
) -> None:
    _, text = factories.api_key(acme, networks=["192.0.2.0/24", "2001:db8::/32"])
    origin.begin(Origin())
    assert works(text, address) is allowed


def test_an_address_is_judged_behind_trusted_proxies_only(
    boss: str, acme: Organization, settings: Any
) -> None:
    scopes = ["keys"]
    _, text = factories.api_key(acme, scopes=scopes, networks=["192.0.2.0/24"])

    @async_to_sync
    async def ask() -> int:
        headers = {"Authorization": f"Bearer {text}", "X-Forwarded-For": "192.0.2.7"}
        response = await AsyncClient().get("/api/v1/keys", headers=headers)
        await async_state().aclose()
        return response.status_code

    assert ask() == 403
    settings.TRUSTED_PROXIES = ["127.0.0.1"]
    assert ask() == 200


def test_the_networks_cost_no_round_trip(
    acme: Organization, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, text = factories.api_key(acme, networks=["192.0.2.0/24"])
    redis.flushdb()
    assert works(text, "192.0.2.1")
    monkeypatch.setattr(known.KEYS, "_load", lambda _: pytest.fail("went to the database"))
    before = redis.info("commandstats").get("cmdstat_get", {"calls": 0})["calls"]
    known.ORGANIZATIONS.forget()
    assert works(text, "192.0.2.1")
    after = redis.info("commandstats")["cmdstat_get"]["calls"]
    assert after - before == 2


def test_networks_are_checked_where_operators_write_them(acme: Organization) -> None:
    key, _ = factories.api_key(acme, networks=["nonsense"])
    with pytest.raises(ValidationError, match=r"192\.0\.2\.0/24"):
        key.full_clean()


def test_uses_are_gathered_told_once_and_written_in_a_batch(
    acme: Organization, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uses, "GATHER_SECONDS", 0.05)
    made = [factories.api_key(acme) for _ in range(3)]
    told: list[dict[str, float]] = []
    tell, done = uses.tell, asyncio.Event()

    async def counted(used: dict[str, float]) -> None:
        told.append(used)
        await tell(used)
        done.set()

    monkeypatch.setattr(uses, "tell", counted)

    async def run() -> None:
        for _ in range(20):
            for _, text in made[:2]:
                await auth.authenticate(f"Bearer {text}")
        await done.wait()
        await async_state().aclose()

    asyncio.run(run())
    assert [set(each) for each in told] == [{key.pk for key, _ in made[:2]}]
    assert tasks.write_uses() == 2
    assert tasks.write_uses() == 0
    for key, _ in made:
        key.refresh_from_db()
    times = [key.last_used_at for key, _ in made]
    assert all(at and datetime.now(UTC) - at < timedelta(seconds=30) for at in times[:2])
    assert times[2] is None


def test_a_flush_that_was_killed_is_finished_by_the_next(acme: Organization, redis: Redis) -> None:
    key, _ = factories.api_key(acme)
    write: Callable[[], int] = uses.write
    redis.hset("keys:used:writing", key.pk, "1800000000.5")
    redis.hset("keys:used", key.pk, "1700000000")
    assert [write(), write(), write()] == [1, 1, 0]
    key.refresh_from_db()
    assert key.last_used_at == datetime.fromtimestamp(1800000000.5, UTC)
