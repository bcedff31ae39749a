"""Exports of everything an organization owns: asked for, written by a worker, kept for a week.

The file lies sealed under the organization's data key, in frames, so that erasing the organization
makes it noise wherever it was copied.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, cast
from uuid import UUID

import structlog
from django.db import IntegrityError, transaction
from django.db.models import F, Q

from analytics import archive
from analytics.models import Export
from kit.envelope import Cipher, Place, Unreadable, sealed_under
from kit.errors import Refused
from tenants import audit, datakeys
from tenants.audit import Actor, Change
from tenants.models import Organization

KEPT = timedelta(days=7)
_LEASE = timedelta(minutes=30)
_MOST_ATTEMPTS = 3
MOST_READY = 7
"""Of an organization's, one a day."""
_FRAME = 256 * 1024
_LENGTH = 4

log = structlog.get_logger()


class NoExport(Refused):
    """No export of this id, or another organization's."""

    status, code = 404, "export_not_found"


class NotReady(Refused):
    """Not written yet, or no more."""

    status, code = 409, "export_not_ready"


class TooManyExports(Refused):
    """As many lie there as may."""

    status, code = 409, "too_many_exports"


def ask(organization: int, *, by: Actor, now: datetime) -> Export:
    """An export that is to be written; the open one if there is one already.

    Raises `TooManyExports`: each lies on the disk for a week.
    """
    mine = Export.objects.for_org(organization)
    open_ones = mine.filter(state__in=Export.OPEN)
    if (found := open_ones.first()) is not None:
        return found
    ready = mine.filter(state=Export.State.READY)
    if ready.count() >= MOST_READY:
        first = ready.order_by("expires_at").values_list("expires_at", flat=True)[0]
        raise TooManyExports(
            f"{MOST_READY} exports are there to be downloaded, the most there may be; the first "
            f"goes at {first:%Y-%m-%d %H:%M} UTC."
        )
    try:
        with transaction.atomic():
            made = Export.objects.create(
                organization_id=organization, asked_by=by.id, created_at=now
            )
            change = Change("export.asked", f"export:{made.pk}")
            audit.record(change, by=by, organization=organization, now=now)
    except IntegrityError:
        return open_ones.get()
    return made


def listed(organization: int) -> list[Export]:
    """All of an organization's, newest first."""
    return list(Export.objects.for_org(organization)[:100])


def one(organization: int, identifier: UUID) -> Export:
    """Raises `NoExport`."""
    found = Export.objects.for_org(organization).filter(pk=identifier).first()
    if found is None:
        raise NoExport(f"There is no export {identifier}; GET /api/v1/exports lists yours.")
    return found


def write_waiting(*, now: datetime) -> int:
    """Write what waits, or was left by a worker that died; take away what is too old."""
    _expire(now)
    written = 0
    while (export := _claim(now)) is not None:
        try:
            _write(export, now)
            written += 1
        except Exception as error:
            log.exception("an export could not be written", export=str(export.pk))
            _give_back(export, type(error).__name__)
    return written


def download(organization: int, identifier: UUID, *, by: Actor, now: datetime) -> Iterator[bytes]:
    """The zip, in parts; leaves its mark in the audit log. Raises `NoExport`, `NotReady`."""
    export = one(organization, identifier)
    path = export.path
    if export.state != Export.State.READY or not path.is_file():
        raise NotReady(
            f"The export {export.pk} is {export.state}; only a ready one can be downloaded, for "
            f"{KEPT.days} days."
        )
    change = Change("export.downloaded", f"export:{export.pk}")
    audit.record(change, by=by, organization=organization, now=now)
    return _unsealed(path, export)


def _claim(now: datetime) -> Export | None:
    """The oldest that waits or whose lease ran out, leased by a conditional update."""
    due = Q(state=Export.State.WAITING) | Q(state=Export.State.RUNNING, leased_until__lt=now)
    rows = Export.objects.across_organizations()
    for export in rows.filter(due).order_by("created_at"):
        if export.attempts >= _MOST_ATTEMPTS:
            rows.filter(due, pk=export.pk).update(state=Export.State.FAILED, finished_at=now)
            continue
        taken = rows.filter(due, pk=export.pk, attempts=export.attempts).update(
            state=Export.State.RUNNING, leased_until=now + _LEASE, attempts=F("attempts") + 1
        )
        if taken:
            export.attempts += 1
            return export
    return None


def _write(export: Export, now: datetime) -> None:
    organization = Organization.objects.get(pk=export.organization_id)
    path = export.path
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    ring = datakeys.ring(organization.pk)
    partial = path.with_suffix(f".{export.attempts}")
    with partial.open("wb") as file:
        out = _Sealing(file, ring.cipher(_place(export)))
        archive.write(organization, cast("BinaryIO", out), now=now)
        out.finish()
    partial.replace(path)
    mine = Export.objects.for_org(organization).filter(
        pk=export.pk, state=Export.State.RUNNING, attempts=export.attempts
    )
    is_mine = mine.update(
        state=Export.State.READY,
        finished_at=now,
        expires_at=now + KEPT,
        size=out.size,
        sha256=out.digest.hexdigest(),
    )
    if not is_mine and not Export.objects.for_org(organization).filter(pk=export.pk).exists():
        path.unlink(missing_ok=True)  # Erased meanwhile.


def _give_back(export: Export, why: str) -> None:
    rows = Export.objects.across_organizations().filter(pk=export.pk, attempts=export.attempts)
    over = export.attempts >= _MOST_ATTEMPTS
    state = Export.State.FAILED if over else Export.State.WAITING
    rows.update(state=state, error=f"{why}; the log of the worker says more."[:200])


def _expire(now: datetime) -> None:
    old = Export.objects.across_organizations().filter(state=Export.State.READY, expires_at__lt=now)
    for export in old:
        export.path.unlink(missing_ok=True)
        export.state = Export.State.EXPIRED
        export.save(update_fields=["state"])


def _unsealed(path: Path, export: Export) -> Iterator[bytes]:
    cipher, expected = None, 0
    with path.open("rb") as file:
        while length := file.read(_LENGTH):
            frame = file.read(int.from_bytes(length, "big"))
            if cipher is None:
                ring = datakeys.ring(export.organization_id, needs=sealed_under(frame))
                cipher = ring.cipher(_place(export))
            number, part = cipher.unseal(frame).split(b":", 1)
            if int(number) != expected:
                raise Unreadable(f"frame {expected} of the export {export.pk} is missing")
            expected += 1
            yield part


def _place(export: Export) -> Place:
    return Place(export.organization_id, "export", str(export.pk))


class _Sealing:
    """A file to write to from the front: sealed frames, each preceded by its length."""

    def __init__(self, file: BinaryIO, cipher: Cipher) -> None:
        self.size, self.digest = 0, sha256()
        self._file, self._cipher = file, cipher
        self._pending = bytearray()
        self._frames = 0

    def write(self, part: bytes) -> int:
        """Take what comes."""
        self.size += len(part)
        self.digest.update(part)
        self._pending += part
        while len(self._pending) >= _FRAME:
            self._put(bytes(self._pending[:_FRAME]))
            del self._pending[:_FRAME]
        return len(part)

    def flush(self) -> None:
        """Frames are written when they are full."""

    def finish(self) -> None:
        """The last frame."""
        self._put(bytes(self._pending))
        self._pending.clear()
        self._file.flush()

    def _put(self, part: bytes) -> None:
        frame = self._cipher.seal(b"%d:%b" % (self._frames, part))
        self._file.write(len(frame).to_bytes(_LENGTH, "big") + frame)
        self._frames += 1
