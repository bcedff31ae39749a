"""Everything that an organization owns, as a file: whole, checked, sealed, and nobody else's."""

import io
import json
import zipfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.apps import apps
from django.conf import settings
from django.core.management import CommandError, call_command
from django_tenants.utils import schema_context

from analytics import archive, exports
from analytics.models import Export
from inference.batches import batch as life
from inference.batches import files
from inference.batches.batch import Asked
from inference.batches.models import Batch
from inference.jobs import asked_place
from inference.letters.models import DeadLetter
from inference.models import RequestText
from inference.texts import answered_place
from kit.envelope import Unreadable
from tenants import datakeys, erasure, owned
from tenants.audit import Actor
from tenants.models import AuditEntry, Organization, User
from tests import factories
from tests.inference.parts import job

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
BY = Actor("user:1", "alice@example.com")

pytestmark = [pytest.mark.usefixtures("redis"), pytest.mark.django_db]


@pytest.fixture(autouse=True)
def _own_folder(settings: Any, tmp_path: Path) -> None:
    settings.EXPORTS_DIR = tmp_path / "exports"


@pytest.fixture
def full(acme: Organization, alice: User, globex: Organization, bob: User) -> Organization:
    """Acme with a person, a key, an account and a sealed text; globex with its own."""
    for each in (acme, globex):
        factories.account(each)
        factories.api_key(each, name=f"key of {each.slug}")
        remember(each)
    return acme


def remember(of: Organization) -> None:
    request, ring = UUID(int=of.pk), datakeys.ring(of.pk)
    with schema_context(of.schema_name):
        RequestText.objects.create(
            request=request,
            asked=ring.seal(
                json.dumps([{"role": "user", "content": f"asked by {of.slug}"}]).encode(),
                asked_place(of.pk, request),
            ),
            answered=ring.seal(b'["an answer"]', answered_place(of.pk, request)),
            finished_at=NOW,
        )


def written(full: Organization) -> bytes:
    asked = exports.ask(full.pk, by=BY, now=NOW)
    assert exports.write_waiting(now=NOW) == 1
    return b"".join(exports.download(full.pk, asked.pk, by=BY, now=NOW))


def files_of(archived: bytes) -> dict[str, list[dict[str, Any]]]:
    with zipfile.ZipFile(io.BytesIO(archived)) as found:
        assert found.testzip() is None
        return {
            name: [json.loads(line) for line in found.read(name).splitlines()]
            for name in found.namelist()
            if name.endswith(".jsonl")
        }


def test_all_of_it_and_nothing_of_another(full: Organization) -> None:
    archived = written(full)
    files = files_of(archived)
    assert files["organization.jsonl"][0]["slug"] == "acme"
    assert [row["email"] for row in files["account/tenants_membership.jsonl"]] == [
        "alice@example.com"
    ]
    assert [row["name"] for row in files["account/tenants_apikey.jsonl"]] == ["key of acme"]
    assert len(files["account/billing_account.jsonl"]) == 1
    [text] = files["data/inference_requesttext.jsonl"]
    assert text["messages"][0]["content"] == "asked by acme"
    assert text["answers"] == ["an answer"]
    assert {"account/billing_ledgerentry.jsonl", "account/tenants_auditentry.jsonl"} <= files.keys()
    assert "globex" not in json.dumps(files)


def test_no_secret_is_in_it(full: Organization) -> None:
    files = files_of(written(full))
    assert "account/tenants_datakey.jsonl" not in files
    assert "secret_hash" not in json.dumps(files)


def test_the_manifest_has_rows_and_checksums_of_each_file(full: Organization) -> None:
    archived = written(full)
    with zipfile.ZipFile(io.BytesIO(archived)) as found:
        manifest = json.loads(found.read("manifest.json"))
        for each in manifest["files"]:
            text = found.read(each["name"])
            assert sha256(text).hexdigest() == each["sha256"]
            assert (len(text), text.count(b"\n")) == (each["bytes"], each["rows"])
        assert {each["name"] for each in manifest["files"]} == set(found.namelist()) - {
            "manifest.json"
        }
    row = Export.objects.for_org(full).get()
    assert (row.size, row.sha256) == (len(archived), sha256(archived).hexdigest())


def test_the_file_is_sealed_and_noise_without_the_data_key(
    full: Organization, settings: Any
) -> None:
    written(full)
    [path] = settings.EXPORTS_DIR.iterdir()
    stored = path.read_bytes()
    assert b"PK" not in stored[:64]
    assert b"manifest.json" not in stored
    datakeys.destroy(full.pk)
    with pytest.raises(Unreadable):
        list(exports.download(full.pk, Export.objects.for_org(full).get().pk, by=BY, now=NOW))


def test_frames_that_were_reordered_are_noticed(
    full: Organization, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "_FRAME", 64)
    written(full)
    [path] = settings.EXPORTS_DIR.iterdir()
    stored = path.read_bytes()
    first = 4 + int.from_bytes(stored[:4], "big")
    path.write_bytes(stored[first:])
    with pytest.raises(Unreadable, match="frame 0"):
        list(exports.download(full.pk, Export.objects.for_org(full).get().pk, by=BY, now=NOW))


def test_asking_again_while_one_is_open_returns_it(full: Organization) -> None:
    first = exports.ask(full.pk, by=BY, now=NOW)
    assert exports.ask(full.pk, by=BY, now=NOW).pk == first.pk
    exports.write_waiting(now=NOW)
    assert exports.ask(full.pk, by=BY, now=NOW).pk != first.pk


def test_no_more_lie_on_the_disk_than_may(
    full: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "MOST_READY", 1)
    written(full)
    with pytest.raises(exports.TooManyExports, match="the first goes at"):
        exports.ask(full.pk, by=BY, now=NOW)
    exports.write_waiting(now=NOW + timedelta(days=8))
    assert exports.ask(full.pk, by=BY, now=NOW + timedelta(days=8)).state == "waiting"


def test_what_a_dead_worker_left_is_written_by_the_next(full: Organization) -> None:
    asked = exports.ask(full.pk, by=BY, now=NOW)
    assert exports._claim(NOW) == asked, "and then its worker dies"
    assert exports.write_waiting(now=NOW + timedelta(minutes=1)) == 0
    assert exports.write_waiting(now=NOW + timedelta(hours=1)) == 1
    assert exports.one(full.pk, asked.pk).state == "ready"


def test_one_that_never_can_be_written_fails_and_says_so(
    full: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(archive, "write", broken)
    asked = exports.ask(full.pk, by=BY, now=NOW)
    assert exports.write_waiting(now=NOW) == 0
    found = exports.one(full.pk, asked.pk)
    assert (found.state, found.attempts) == ("failed", 3)
    assert "OSError" in found.error


def test_after_a_week_it_is_gone(full: Organization, settings: Any) -> None:
    written(full)
    exports.write_waiting(now=NOW + timedelta(days=8))
    assert list(settings.EXPORTS_DIR.iterdir()) == []
    row = Export.objects.for_org(full).get()
    with pytest.raises(exports.NotReady, match="expired"):
        exports.download(full.pk, row.pk, by=BY, now=NOW)


def test_another_organizations_is_not_there(full: Organization, globex: Organization) -> None:
    asked = exports.ask(full.pk, by=BY, now=NOW)
    with pytest.raises(exports.NoExport):
        exports.download(globex.pk, asked.pk, by=BY, now=NOW)


def test_asking_and_downloading_leave_their_marks(full: Organization) -> None:
    written(full)
    actions = AuditEntry.objects.for_org(full).values_list("action", flat=True)
    assert [each for each in actions if each.startswith("export.")] == [
        "export.asked",
        "export.downloaded",
    ]


def test_the_command_writes_one_in_the_clear(full: Organization, tmp_path: Path) -> None:
    path = tmp_path / "acme.zip"
    call_command("export_organization", "acme", str(path))
    assert files_of(path.read_bytes())["organization.jsonl"][0]["slug"] == "acme"
    assert path.stat().st_mode & 0o777 == 0o600
    for slug in ("acme", "none"):
        with pytest.raises(CommandError):
            call_command("export_organization", slug, str(path))


def test_whatever_leads_to_an_organization_is_taken_along_and_goes_with_it_or_is_kept_by_name(
    full: Organization,
) -> None:
    """Each model whose rows are an organization's, also through others' rows."""
    leading = {
        model._meta.label_lower
        for model in apps.get_models()
        if _leads(model, set()) and model._meta.app_config.name not in settings.TENANT_APPS
    }
    assert {"batches.batchline", "batches.fileframe", "billing.invoiceline"} <= leading
    found = {each.label: each for each in owned.tables()}
    assert found.keys() == leading
    names = files_of(written(full)).keys()
    left_out = {model._meta.label_lower for model in archive.LEFT_OUT}
    assert left_out == {"tenants.datakey", "batches.fileframe"}
    assert {label for label in leading if f"account/{label.replace('.', '_')}.jsonl" in names} == (
        leading - left_out
    )
    said = erasure.erase(full, now=NOW, by=BY)["statement"]
    kept = {label for label, each in found.items() if each.kept}
    assert said["kept"].keys() == kept | {"tenants.organization"}
    assert all(said["kept"].values())
    assert said["erased"]["rows"].keys() == leading - kept - {"tenants.datakey"}
    for label in leading - kept:
        assert not found[label].rows(full.pk).exists(), label
    assert kept == {"tenants.auditentry"} | {
        label
        for label in leading
        if label.startswith("billing.") and not label.endswith(("budget", "budgetalert", "topup"))
    }


def _leads(model: Any, seen: set[Any]) -> bool:
    parents = {field.related_model for field in model._meta.concrete_fields} - {None, model}
    if Organization in parents:
        return True
    return any(_leads(parent, seen | {model}) for parent in parents - seen)


def stored(of: Organization) -> Batch:
    """A file, a batch and one of its lines, a letter, an event."""
    ring = datakeys.ring(of.pk)
    files.keep(of.pk, name="in.jsonl", purpose="batch", content=[b"whole \xff", b"file"], now=NOW)
    batch = life.make(
        factories.caller(organization=of.pk),
        endpoint="/v1/chat/completions",
        input_file=None,
        lines=[Asked("mine", b'{"prompt": "in a batch"}'), Asked("other", b'{"prompt": "x"}')],
        now=NOW,
        identifier=UUID(int=1_000 + of.pk),
    )
    life.note(batch, batch.lines.get(number=1), status=200, answer=b'{"text": "answered"}')
    died = replace(job(organization=of.pk, schema=of.schema_name), messages=({"content": "died"},))
    DeadLetter.objects.create(
        request=died.id,
        organization=of,
        attempts=3,
        died_at=NOW,
        job=died.dump(),
        asked=died.seal(ring),
    )
    return batch


def test_files_batches_and_letters_are_in_it_and_open(
    full: Organization, settings: Any, django_capture_on_commit_callbacks: Any
) -> None:
    batch = stored(full)
    archived = written(full)
    found = files_of(archived)
    [row] = found["account/batches_storedfile.jsonl"]
    with zipfile.ZipFile(io.BytesIO(archived)) as whole:
        name = f"files/file-{UUID(row['id']).hex}"
        assert whole.read(name) == b"whole \xfffile"
    mine, other = found["account/batches_batchline.jsonl"]
    assert (mine["custom_id"], mine["batch_id"]) == ("mine", str(batch.pk))
    assert (mine["asked"], mine["answered"]) == ({"prompt": "in a batch"}, None)
    assert (other["asked"], other["answered"]) == (None, {"text": "answered"})
    [letter] = found["account/letters_deadletter.jsonl"]
    assert letter["asked"]["messages"] == [{"content": "died"}]
    [path] = settings.EXPORTS_DIR.iterdir()
    with django_capture_on_commit_callbacks(execute=True):
        rows = erasure.erase(full, now=NOW, by=BY)["statement"]["erased"]["rows"]
        assert path.exists(), "until it is certain"
    assert not path.exists()
    assert (rows["batches.batchline"], rows["batches.fileframe"], rows["batches.batch"]) == (
        2,
        1,
        1,
    )
    assert files.stored(at=NOW + timedelta(hours=1)) == {}
