"""An organization is erased: nothing of it opens any more, and a certificate says so."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django_tenants.utils import schema_exists
from redis import Redis

from kit.envelope import Place, Unreadable
from tenants import anchors, certificates, datakeys, erasure
from tenants.audit import Actor
from tenants.models import ApiKey, AuditEntry, DataKey, Membership, Organization, User
from tests import factories

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
BY = Actor("user:1", "alice@example.com")

pytestmark = [pytest.mark.usefixtures("redis"), pytest.mark.django_db]


@pytest.fixture
def doomed(alice: User) -> Organization:
    """An organization with a schema that may be dropped: made by hand, in the transaction."""
    organization = Organization(slug="doomed", name="Doomed")
    organization.schema_at_once = False
    organization.save()
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA org_doomed")
        cursor.execute("CREATE TABLE org_doomed.inference_request (id int)")
        cursor.execute("INSERT INTO org_doomed.inference_request VALUES (1), (2)")
    factories.member(alice, organization)
    factories.api_key(organization)
    return organization


def test_schema_keys_and_ways_in_are_gone(doomed: Organization, acme: Organization) -> None:
    factories.api_key(acme)
    place = Place(doomed.pk, "test", "1")
    sealed = datakeys.ring(doomed.pk).seal(b"secret", place)
    erasure.erase(doomed, now=NOW, by=BY)
    assert not schema_exists("org_doomed")
    with pytest.raises(Unreadable):
        datakeys.ring(doomed.pk).unseal(sealed, place)
    for model in (ApiKey, Membership, DataKey):
        assert not model.objects.for_org(doomed).exists()
    assert ApiKey.objects.for_org(acme).count() == 1, "another's stay"
    doomed.refresh_from_db()
    assert doomed.erased_at == doomed.suspended_at == NOW


def test_the_certificate_says_what_and_is_signed(doomed: Organization) -> None:
    head = AuditEntry.objects.for_org(doomed).last()
    certificate = erasure.erase(doomed, now=NOW, by=BY)
    said = certificate["statement"]
    assert said["organization"] == {"id": doomed.pk, "slug": "doomed", "name": "Doomed"}
    assert said["erased"]["tables"] == {"inference_request": 2}
    assert len(said["erased"]["api_keys"]) == said["erased"]["rows"]["tenants.membership"] == 1
    assert said["erased_at"] == "2026-11-24T12:00:00.000000+00:00"
    assert said["by"] == {"id": "user:1", "name": "alice@example.com"}
    assert head is not None
    assert said["audit_head"] == {"sequence": head.sequence, "hash": head.hash}
    key = certificates.public_key()
    assert certificates.is_genuine(json.loads(json.dumps(certificate)), key=key)
    certificate["statement"]["erased"]["rows"]["tenants.membership"] = 0
    assert not certificates.is_genuine(certificate, key=key)


@pytest.mark.parametrize("certificate", [{}, {"signature": "x", "statement": {}}])
def test_what_is_no_certificate_is_not_genuine(certificate: Any) -> None:
    assert not certificates.is_genuine(certificate, key=certificates.public_key())


def test_erasing_again_returns_the_same_certificate(doomed: Organization) -> None:
    first = erasure.erase(doomed, now=NOW, by=BY)
    assert erasure.erase(doomed, now=datetime.now(UTC), by=BY) == first
    assert certificates.is_genuine(erasure.certificate_of(doomed), key=first["public_key"])


def test_the_audit_log_goes_on_and_is_whole(
    doomed: Organization, settings: Any, tmp_path: Any
) -> None:
    settings.AUDIT_ANCHORS = tmp_path / "anchors.jsonl"
    erasure.erase(doomed, now=NOW, by=BY)
    assert AuditEntry.objects.for_org(doomed).last().action == "organization.erased"  # type: ignore[union-attr]
    assert list(anchors.verify()) == []


def test_redis_forgets_it(
    doomed: Organization, redis: Redis, django_capture_on_commit_callbacks: Any
) -> None:
    key = ApiKey.objects.for_org(doomed).get().pk
    other = doomed.pk * 10
    gone = [
        f"credit:{doomed.pk}",
        f"idempotency:{doomed.pk}:abc",
        f"limits:organization:{doomed.pk}:log",
        f"limits:key:{key}:log",
        "stream:one",
    ]
    kept = [f"credit:{other}", f"idempotency:{other}:abc", "stream:two", "stream:three"]
    for name in (*gone, *kept):
        redis.set(name, "x")
    for name, whose, how in (("one", doomed.pk, "done"), ("two", other, "done")):
        redis.hset(f"job:{name}", mapping={"org": whose, "state": how})
    redis.hset("job:three", mapping={"org": doomed.pk, "state": "running"})
    with django_capture_on_commit_callbacks(execute=True):
        erasure.erase(doomed, now=NOW, by=BY)
    assert redis.exists(*gone, "job:one") == 0
    assert redis.exists(*kept) == len(kept)


def test_the_command_wants_the_slug_twice(doomed: Organization, capsys: Any) -> None:
    for arguments in (["none", "--really", "none"], ["doomed"], ["doomed", "--really", "acme"]):
        with pytest.raises(CommandError):
            call_command("erase_organization", *arguments)
    assert schema_exists("org_doomed")
    call_command("erase_organization", "doomed", "--really", "doomed")
    certificate = json.loads(capsys.readouterr().out)
    assert certificates.is_genuine(certificate, key=certificates.public_key())
