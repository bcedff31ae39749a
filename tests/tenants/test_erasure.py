"""An organization is erased: nothing of it opens any more, and a certificate says so."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django_tenants.utils import schema_exists
from redis import Redis

from kit.envelope import Place, Unreadable
from tenants import anchors, certificates, datakeys, erasure, tasks
from tenants.audit import Actor
from tenants.models import ApiKey, AuditEntry, DataKey, Membership, Organization, Role, User
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
    [key] = [each.public for each in certificates.published(now=NOW)]
    assert certificates.is_genuine(json.loads(json.dumps(certificate)), key=key)
    certificate["statement"]["erased"]["rows"]["tenants.membership"] = 0
    assert not certificates.is_genuine(certificate, key=key)


@pytest.mark.parametrize("certificate", [{}, {"signature": "x", "statement": {}}])
def test_what_is_no_certificate_is_not_genuine(certificate: Any) -> None:
    key = certificates.published(now=NOW)[0].public
    assert not certificates.is_genuine(certificate, key=key)


def test_neither_another_secret_key_nor_another_signing_key_voids_a_certificate(
    doomed: Organization, settings: Any, tmp_path: Path
) -> None:
    certificate = erasure.erase(doomed, now=NOW, by=BY)
    old = certificate["public_key"]
    settings.SECRET_KEY = "another"
    new = certificates.rotate(now=NOW + timedelta(days=1), by=BY)
    assert AuditEntry.objects.across_organizations().latest("id").after == {
        "public_key": new.public
    }
    assert certificates.sign({}, now=NOW)["public_key"] == new.public
    said = certificates.published(now=NOW)
    assert [(each.public, each.retired_at is None) for each in said] == [
        (new.public, True),
        (old, False),
    ]
    assert certificates.is_genuine(certificate, key=old)
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(certificate, indent=2, ensure_ascii=False))
    script = Path(__file__).parents[2] / "docs" / "examples" / "verify_certificate.py"
    for key, status in ((old, 0), (new.public, 1)):
        done = subprocess.run(  # noqa: S603
            [sys.executable, script, path, key], check=False, capture_output=True
        )
        assert (done.returncode, b"Genuine: Doomed" in done.stdout) == (status, status == 0)


@pytest.mark.django_db(transaction=True)
def test_keys_are_published_before_they_sign_and_stay() -> None:
    path = "/api/v1/certificates/keys"
    [first] = Client().get(path).json()["data"]
    assert certificates.sign({}, now=NOW)["public_key"] == first["public_key"]
    certificates.rotate(now=datetime.now(UTC), by=BY)
    second, again = Client().get(path).json()["data"]
    assert (again["public_key"], second["retired_at"]) == (first["public_key"], None)
    assert again["retired_at"]


def test_its_owners_are_told_of_it_though_they_are_members_no_more(
    doomed: Organization,
    alice: User,
    charlie: User,
    mailoutbox: list[Any],
    django_capture_on_commit_callbacks: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    factories.member(charlie, doomed, Role.DEVELOPER)
    asked = []
    monkeypatch.setattr(
        current_app, "send_task", lambda name, **how: asked.append((name, how["kwargs"]))
    )
    for _ in range(2):
        with django_capture_on_commit_callbacks(execute=True):
            certificate = erasure.erase(doomed, now=NOW, by=BY)
    assert asked == [("tenants.send_certificate", {"organization": doomed.pk})], "once"
    assert tasks.send_certificate(**asked[0][1]) == 1
    [mail] = mailoutbox
    assert mail.to == [alice.email]
    assert certificate["public_key"] in mail.body
    [(name, attached, _)] = mail.attachments
    assert (name, json.loads(attached)) == ("certificate-doomed.json", certificate)


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
    assert list(anchors.verify(now=NOW)) == []


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
    assert certificates.is_genuine(certificate, key=certificate["public_key"])
    call_command("certificates", "show", "doomed")
    assert json.loads(capsys.readouterr().out) == certificate
    call_command("certificates", "send", "doomed")
    call_command("certificates", "keys")
    said = capsys.readouterr().out
    assert "1 letters" in said
    assert certificate["public_key"] in said
    with pytest.raises(CommandError, match="no erased"):
        call_command("certificates", "show", "acme")
