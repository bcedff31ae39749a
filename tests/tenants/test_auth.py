import asyncio
import time
from collections.abc import Callable
from copy import copy
from datetime import UTC, datetime, timedelta
from threading import Event, Thread

import pytest
from django.db import connection, connections, transaction
from django.db.models import F
from redis import Redis

from kit import origin
from kit.errors import Refused, Unavailable
from kit.origin import Origin
from kit.redis import async_state
from tenants import auth, guesses, keys, known, organizations, records
from tenants.auth import Caller, Forbidden, Limits, Suspended, Unauthenticated
from tenants.guesses import TooManyGuesses
from tenants.models import ApiKey, Membership, ModelLimit, Organization, Plan, User
from tenants.records import Fields, Records
from tests import factories

pytestmark = pytest.mark.usefixtures("redis", "transactional_db")

FOREVER = datetime(2100, 1, 1, tzinfo=UTC)


def authenticate(*authorization: str | None) -> list[Caller]:
    """All at once, in an event loop of their own."""

    async def run() -> list[Caller]:
        try:
            return list(await asyncio.gather(*(auth.authenticate(each) for each in authorization)))
        finally:
            await async_state().aclose()

    return asyncio.run(run())


def caller_of(text: str) -> Caller:
    return authenticate(f"Bearer {text}")[0]


def warm(redis: Redis, text: str) -> None:
    """Put the key's records into Redis, past the mark that its making left."""
    redis.flushdb()
    known.KEYS._held.clear()
    known.ORGANIZATIONS._held.clear()
    caller_of(text)


def refusal_within_a_second(text: str) -> Refused:
    """What an already warm key gets; every process holds a record for half a second."""
    until = time.monotonic() + 1
    while time.monotonic() < until:
        try:
            caller_of(text)
        except Refused as refusal:
            return refusal
    pytest.fail("still let in after a second")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "No API key was sent"),
        ("", "No API key was sent"),
        ("   ", "No API key was sent"),
        ("Bearer", "must read 'Bearer '"),
        ("Bearer   ", "must read 'Bearer '"),
        ("aip_live_secret", "must read 'Bearer '"),
        ("Basic YWxpY2U6c2VjcmV0", "must read 'Bearer '"),
        ("Bearer sk-proj-abc", "not an API key of this platform"),
        ("Bearer aip_live_x_y", "not an API key of this platform"),
        ("Bearer one two", "not an API key of this platform"),
        ("Bearer a\x00b", "not an API key of this platform"),
        ("Bearer aip_live_ключ", "must be ASCII"),
        ("Bearer " + "a" * 100_000, "at most 1024 characters"),
        (f"Bearer {keys._spell('live', '0' * 12, '0' * 32)[:-1]}-", "not an API key"),
        (f"Bearer {keys._spell('live', '0' * 12, '0' * 32)}", "Incorrect API key"),
        ("Bearer aip_live_000000000000_" + "0" * 38, "mistyped"),
    ],
)
def test_a_header_without_a_key_of_ours_is_refused(header: str | None, message: str) -> None:
    with pytest.raises(Unauthenticated, match=message) as refusal:
        authenticate(header)
    assert (refusal.value.status, refusal.value.code) == (401, "invalid_api_key")
    assert "secret" not in refusal.value.message


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "  bEaReR "])
def test_a_key_names_its_caller(acme: Organization, scheme: str) -> None:
    Organization.objects.filter(pk=acme.pk).update(requests_per_minute=60, priority=0)
    key, text = factories.api_key(acme, scopes=["usage"], models=["m"], concurrent_requests=2)
    assert authenticate(f"{scheme} {text}") == [
        Caller(
            organization=acme.pk,
            slug="acme",
            schema="org_acme",
            key=key.pk,
            scopes=frozenset({"usage"}),
            models=frozenset({"m"}),
            limits=Limits(requests_per_minute=60),
            key_limits=Limits(concurrent_requests=2),
            priority=0,
        )
    ]


def test_a_key_belongs_to_its_organization_alone(acme: Organization, globex: Organization) -> None:
    texts = [factories.api_key(of)[1] for of in (acme, globex)]
    assert [caller_of(text).slug for text in texts] == ["acme", "globex"]


def test_a_wrong_secret_is_refused(acme: Organization) -> None:
    key, _ = factories.api_key(acme)
    with pytest.raises(Unauthenticated, match="Incorrect"):
        caller_of(keys._spell("live", key.pk, "0" * 32))


def test_a_key_of_the_other_environment_is_refused(acme: Organization) -> None:
    _, text = factories.api_key(acme)
    *_, identifier, secret = text.split("_")
    with pytest.raises(Unauthenticated, match="Incorrect"):
        caller_of(keys._spell("test", identifier, secret[:32]))


@pytest.mark.parametrize("of", ["key", "organization"])
def test_a_warm_caller_costs_no_database(
    acme: Organization, redis: Redis, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    _, text = factories.api_key(acme)
    warm(redis, text)
    kept = known.KEYS if of == "key" else known.ORGANIZATIONS
    kept._held.clear()
    monkeypatch.setattr(kept, "_load", lambda _: pytest.fail("went to the database"))
    assert caller_of(text).slug == "acme"


def test_many_at_once_read_a_row_once(acme: Organization, monkeypatch: pytest.MonkeyPatch) -> None:
    load, loads = known.KEYS._load, list[str]()

    def counted(identifier: str) -> Fields | None:
        loads.append(identifier)
        return load(identifier)

    monkeypatch.setattr(known.KEYS, "_load", counted)
    key, text = factories.api_key(acme)
    assert len(authenticate(*[f"Bearer {text}"] * 50)) == 50
    assert loads == [key.pk]


def test_an_unknown_key_is_looked_up_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    monkeypatch.setattr(known.KEYS, "_load", loads.append)
    for _ in range(3):
        known.KEYS._held.clear()
        with pytest.raises(Unauthenticated):
            caller_of(keys._spell("live", "unknown00000", "0" * 32))
    assert loads == ["unknown00000"]


def test_made_up_keys_do_not_stand_in_the_way_of_a_genuine_one(
    acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, loads = known.KEYS._load, list[str]()

    def slowly(identifier: str) -> Fields | None:
        loads.append(identifier)
        time.sleep(0.02)
        return load(identifier)

    async def come(text: str, address: str) -> Caller | Refused:
        origin.begin(Origin(origin.address(address)))
        try:
            return await auth.authenticate(f"Bearer {text}")
        except Refused as refusal:
            return refusal

    async def run() -> tuple[list[Caller | Refused], Caller | Refused]:
        crowd = [
            asyncio.create_task(come(keys._spell("live", f"{n:012}", "0" * 32), f"2001:db8::{n:x}"))
            for n in range(1_000)
        ]
        genuine = await come(text, "192.0.2.1")
        refused = await asyncio.gather(*crowd)
        for n in range(1_000, 1_200):
            refused.append(await come(keys._spell("live", f"{n:012}", "0" * 32), "2001:db8::1"))
        again = await come(text, "2001:db8::1")
        assert isinstance(again, Caller), "what is known is not guessed"
        await async_state().aclose()
        return refused, genuine

    _, text = factories.api_key(acme)
    monkeypatch.setattr(known.KEYS, "_load", slowly)
    refused, genuine = asyncio.run(run())
    assert isinstance(genuine, Caller)
    assert loads.index(genuine.key) <= guesses.AT_ONCE
    assert guesses.MISSES <= len(loads) <= guesses.MISSES + guesses.AT_ONCE
    [last] = refused[-1:]
    assert isinstance(last, TooManyGuesses)
    assert (last.status, 0 < (last.retry_after or 0) <= 60) == (429, True)


def test_a_full_process_forgets_what_was_not_asked_for_the_longest(
    acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_MOST_HELD", 3)
    known.KEYS.forget()
    texts = [factories.api_key(acme)[1] for _ in range(4)]
    first, *rest = texts
    authenticate(f"Bearer {first}")
    for text in rest[:2]:
        authenticate(f"Bearer {text}")
    _, value = known.KEYS._held[keys.parse(first).id]
    known.KEYS._held[keys.parse(first).id] = (0.0, value)
    authenticate(f"Bearer {first}")
    authenticate(f"Bearer {rest[2]}")
    ids = [keys.parse(text).id for text in texts]
    assert list(known.KEYS._held) == [ids[2], ids[0], ids[3]]


def test_a_key_made_after_it_was_asked_for_works(acme: Organization) -> None:
    key, text = factories.api_key(acme)
    unsaved = copy(key)
    key.delete()
    assert refusal_within_a_second(text).status == 401
    unsaved.save(force_insert=True)
    known.KEYS._held.clear()
    assert caller_of(text).key == unsaved.pk


def _revoke(key: ApiKey) -> None:
    keys.revoke(key, now=datetime.now(UTC))


def _expire(key: ApiKey) -> None:
    key.expires_at = datetime.now(UTC) - timedelta(seconds=1)
    key.save(update_fields=["expires_at"])


def _suspend(key: ApiKey) -> None:
    organizations.suspend(key.organization, now=datetime.now(UTC), reason="unpaid invoice")


def _suspend_silently(key: ApiKey) -> None:
    organizations.suspend(key.organization, now=datetime.now(UTC))


def _delete(key: ApiKey) -> None:
    key.delete()


def _deactivate(key: ApiKey) -> None:
    person = key.person
    assert person is not None
    person.is_active = False
    person.save()


def _delete_organization(key: ApiKey) -> None:
    key.organization.delete()


@pytest.mark.parametrize(
    ("change", "refusal", "message"),
    [
        (_revoke, Unauthenticated, "was revoked"),
        (_expire, Unauthenticated, "has expired"),
        (_delete, Unauthenticated, "Incorrect"),
        (_deactivate, Unauthenticated, "or was shut out"),
        (_delete_organization, Unauthenticated, "no longer exists"),
        (_suspend, Suspended, "The organization 'acme' is suspended: unpaid invoice"),
        (_suspend_silently, Suspended, "The organization 'acme' is suspended."),
    ],
)
def test_a_change_reaches_warm_processes_within_a_second(
    acme: Organization,
    redis: Redis,
    change: Callable[[ApiKey], None],
    refusal: type[Refused],
    message: str,
) -> None:
    person = factories.user("dora")
    factories.member(person, acme)
    key, text = factories.api_key(acme, person=person)
    warm(redis, text)
    change(key)
    refused = refusal_within_a_second(text)
    assert isinstance(refused, refusal)
    assert message in refused.message


def test_a_change_that_is_rolled_back_changes_nothing(acme: Organization) -> None:
    key, text = factories.api_key(acme)
    with transaction.atomic():
        _revoke(key)
        transaction.set_rollback(True)
    known.KEYS._held.clear()
    assert caller_of(text).key == key.pk


def test_a_key_that_expires_later_works_until_then(acme: Organization) -> None:
    _, text = factories.api_key(acme, expires_at=FOREVER)
    assert caller_of(text).slug == "acme"


def test_an_organization_whose_schema_is_gone_is_unavailable(acme: Organization) -> None:
    _, text = factories.api_key(acme)
    rename = "ALTER SCHEMA {} RENAME TO {}"
    with connection.cursor() as cursor:
        cursor.execute(rename.format("org_acme", "org_gone"))
        try:
            with pytest.raises(Unavailable, match="'acme' is not in place"):
                caller_of(text)
        finally:
            cursor.execute(rename.format("org_gone", "org_acme"))


def test_a_reader_that_met_the_old_row_cannot_outlast_a_revocation(
    acme: Organization, redis: Redis
) -> None:
    key, text = factories.api_key(acme)
    redis.flushdb()
    read, go_on = Event(), Event()

    def slow(identifier: str) -> Fields | None:
        row = known._load_key(identifier)
        read.set()
        go_on.wait()
        return row

    laggard = Records(ApiKey.kind, load=slow, shape=known._shape_key)
    thread = Thread(target=laggard._fill, args=(key.pk,))
    thread.start()
    read.wait()
    _revoke(key)
    go_on.set()
    thread.join()
    with pytest.raises(Unauthenticated, match="was revoked"):
        caller_of(text)


def test_a_reader_during_a_transaction_longer_than_the_mark_is_outlasted(
    acme: Organization, redis: Redis
) -> None:
    key, text = factories.api_key(acme)
    with transaction.atomic():
        _revoke(key)
        warm(redis, text)
    known.KEYS._held.clear()
    with pytest.raises(Unauthenticated, match="was revoked"):
        caller_of(text)


def test_a_changer_that_dies_after_its_commit_leaves_no_old_record(
    acme: Organization, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, text = factories.api_key(acme)
    warm(redis, text)
    monkeypatch.setattr("django.db.transaction.on_commit", lambda *_, **__: None)
    _revoke(key)
    known.KEYS._held.clear()
    with pytest.raises(Unauthenticated, match="was revoked"):
        caller_of(text)
    assert 0 < redis.pttl(f"key:{key.pk}") <= records.MARK_MS


def test_what_cannot_be_checked_is_not_let_in(
    acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, text = factories.api_key(acme)

    def down(_: str) -> None:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT 1 FROM no_such_table")

    monkeypatch.setattr(known.KEYS, "_load", down)
    with pytest.raises(Unavailable, match="cannot be checked"):
        caller_of(text)


def test_a_scope_is_required_by_name() -> None:
    caller = factories.caller(scopes=frozenset({"usage"}))
    caller.require("usage")
    with pytest.raises(Forbidden, match="the scope 'inference'; the API key has: usage") as refusal:
        caller.require("inference")
    assert refusal.value.status == 403


def test_a_saved_row_is_not_believed_until_it_is_read_again(
    acme: Organization, redis: Redis
) -> None:
    key, text = factories.api_key(acme)
    warm(redis, text)
    key.refresh_from_db()
    key.requests_per_minute = F("requests_per_minute") + 5
    key.save()
    known.KEYS._held.clear()
    assert caller_of(text).key_limits == Limits(requests_per_minute=5)


def test_limits_come_from_the_plan_where_the_organization_has_none(
    acme: Organization, alice: User
) -> None:
    plan = Plan.objects.create(name="Team", requests_per_minute=60, tokens_per_minute=1000)
    ModelLimit.objects.create(plan=plan, model="large", requests_per_minute=6)
    ModelLimit.objects.create(plan=plan, model="small", requests_per_minute=9)
    ModelLimit.objects.create(organization=acme, model="large", requests_per_minute=7)
    acme.plan, acme.requests_per_minute = plan, 90
    acme.save()
    _, text = factories.api_key(acme, person=alice)
    place = Membership.objects.for_org(acme).get(user=alice)
    place.concurrent_requests = 2
    place.save()
    caller = caller_of(text)
    assert caller.limits == Limits(90, 1000, 0)
    assert caller.model_limits == {"large": Limits(7), "small": Limits(9)}
    assert (caller.person, caller.person_limits) == (alice.pk, Limits(0, 0, 2))


def test_a_changed_plan_is_known_within_a_second(acme: Organization) -> None:
    plan = Plan.objects.create(name="Team", requests_per_minute=60)
    acme.plan = plan
    acme.save()
    _, text = factories.api_key(acme)
    assert caller_of(text).limits.requests_per_minute == 60
    plan.requests_per_minute = 30
    plan.save()
    ModelLimit.objects.create(plan=plan, model="m", requests_per_minute=1)
    until = time.monotonic() + 1
    while caller_of(text).limits.requests_per_minute != 30 and time.monotonic() < until:
        pass
    assert caller_of(text).limits.requests_per_minute == 30
    assert caller_of(text).model_limits == {"m": Limits(1)}
