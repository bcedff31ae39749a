"""Data keys: one an organization, wrapped, held for minutes, renewed, moved and destroyed."""

import base64
import os
from datetime import UTC, datetime
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.management import CommandError, call_command
from redis import Redis

from kit.envelope import Place, Unreadable
from kit.errors import Unavailable
from kit.keepers import KeeperFailed
from kit.redis import async_state
from tenants import audit, datakeys
from tenants.models import AuditEntry, DataKey, Organization

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
ONE, TWO = (f"{n}:{base64.b64encode(os.urandom(32)).decode()}" for n in (1, 2))

pytestmark = pytest.mark.usefixtures("redis")


@pytest.fixture(autouse=True)
def _first_key(settings: Any) -> None:
    settings.KEY_ENCRYPTION, settings.KEY_ENCRYPTION_KEYS = "env", ONE


def seal(of: Organization, text: bytes = b"secret") -> bytes:
    return datakeys.ring(of.pk).seal(text, Place(of.pk, "test", "1"))


def unseal(sealed: bytes, of: Organization) -> bytes:
    return datakeys.ring(of.pk).unseal(sealed, Place(of.pk, "test", "1"))


def wrapped() -> list[str]:
    rows = DataKey.objects.across_organizations().order_by("id")
    return list(rows.values_list("wrapped", flat=True))


@async_to_sync
async def later(organization: int) -> Any:
    try:
        return await datakeys.aring(organization)
    finally:
        await async_state().aclose()


def test_an_organization_has_a_key_of_its_own_from_its_first_text(
    acme: Organization, globex: Organization
) -> None:
    sealed = seal(acme)
    assert unseal(sealed, acme) == b"secret"
    with pytest.raises(Unreadable):
        datakeys.ring(globex.pk).unseal(sealed, Place(acme.pk, "test", "1"))
    assert len(set(wrapped())) == 2
    assert DataKey.objects.for_org(acme).count() == 1


def test_the_platform_has_one_too(db: None) -> None:
    sealed = datakeys.ring(datakeys.PLATFORM).seal(b"x", Place(0, "test", "1"))
    datakeys.forget()
    assert datakeys.ring(datakeys.PLATFORM).unseal(sealed, Place(0, "test", "1")) == b"x"
    assert DataKey.objects.across_organizations().filter(organization=None).count() == 1


def test_a_key_is_kept_wrapped_only(acme: Organization, redis: Redis) -> None:
    seal(acme)
    [key] = datakeys.ring(acme.pk).keys.values()
    [text] = wrapped()
    assert base64.b64encode(key).decode() not in text
    assert text.startswith("local:1:")


@pytest.mark.django_db(transaction=True)
def test_a_process_reads_its_keys_once_and_holds_them(
    acme: Organization, redis: Redis, django_assert_num_queries: Any
) -> None:
    first = later(acme.pk)
    with django_assert_num_queries(0):
        assert later(acme.pk) is first
        datakeys._held.clear()
        assert later(acme.pk) == first, "from Redis"
    assert b"local:1:" in redis.get(f"datakeys:{acme.pk}")  # type: ignore[operator]


@pytest.mark.django_db(transaction=True)
def test_a_keeper_that_is_away_does_not_stop_who_holds_the_keys(
    acme: Organization, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = later(acme.pk)
    settings.KEY_ENCRYPTION_KEYS = TWO
    monkeypatch.setattr(datakeys, "FRESH_SECONDS", -1.0)
    assert datakeys.ring(acme.pk) is held
    assert later(acme.pk) is held
    monkeypatch.setattr(datakeys, "HELD_SECONDS", -1.0)
    with pytest.raises(KeeperFailed, match="KEY_ENCRYPTION has the key-encryption key"):
        datakeys.ring(acme.pk)
    with pytest.raises(Unavailable):
        later(acme.pk)


def test_a_new_data_key_seals_and_the_old_one_opens(acme: Organization) -> None:
    old = seal(acme)
    assert datakeys.renew(acme.pk, now=NOW) == 2
    new = seal(acme)
    assert old[:5] != new[:5]
    assert unseal(old, acme) == unseal(new, acme) == b"secret"
    entry = AuditEntry.objects.for_org(acme).get(action="data_key.renewed")
    assert (entry.before, entry.after) == ({"version": 1}, {"version": 2})


def test_the_key_encryption_key_is_replaced_without_a_pause(
    acme: Organization, globex: Organization, settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [(seal(each), each) for each in (acme, globex)]
    settings.KEY_ENCRYPTION_KEYS = f"{TWO},{ONE}"
    datakeys.forget()
    assert [unseal(text, of) for text, of in texts] == [b"secret"] * 2, "the old key still opens"
    call_command("keys", "rotate")
    assert all(text.startswith("local:2:") for text in wrapped())
    settings.KEY_ENCRYPTION_KEYS = TWO
    datakeys.forget()
    assert [unseal(text, of) for text, of in texts] == [b"secret"] * 2, "the old key is gone"
    assert datakeys.rewrap(now=NOW) == 0, "again changes nothing"
    assert AuditEntry.objects.across_organizations().get(action="key_encryption.rotated")


def test_a_wrapped_key_of_another_organization_does_not_unwrap(
    acme: Organization, globex: Organization
) -> None:
    for each in (acme, globex):
        seal(each)
    foreign = DataKey.objects.for_org(globex).get().wrapped
    DataKey.objects.for_org(acme).update(wrapped=foreign)
    datakeys.forget()
    with pytest.raises(KeeperFailed, match="is another's"):
        datakeys.ring(acme.pk)


def test_a_destroyed_key_leaves_noise(acme: Organization) -> None:
    sealed = seal(acme)
    assert datakeys.destroy(acme.pk) == 1
    with pytest.raises(Unreadable):
        unseal(sealed, acme)


def test_an_organization_that_is_not_there_gets_none(db: None) -> None:
    with pytest.raises(Unreadable, match="does not exist"):
        datakeys.ring(999_999)
    assert wrapped() == []


def test_a_key_without_a_number_is_refused_with_what_to_do(settings: Any, db: None) -> None:
    settings.KEY_ENCRYPTION_KEYS = "abc"
    with pytest.raises(CommandError, match="NUMBER:BASE64 of 32 bytes"):
        call_command("keys", "rotate")


def test_a_generated_key_is_one(settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("keys", "generate")
    settings.KEY_ENCRYPTION_KEYS = capsys.readouterr().out.strip()
    assert settings.KEY_ENCRYPTION_KEYS.startswith("2:")


def test_data_keys_are_renewed_by_hand_for_one(acme: Organization) -> None:
    call_command("keys", "renew", "acme")
    assert DataKey.objects.for_org(acme).count() == 1
    call_command("keys", "renew", "acme")
    assert DataKey.objects.for_org(acme).count() == 2
    assert audit.SYSTEM.id == AuditEntry.objects.for_org(acme).last().actor  # type: ignore[union-attr]
