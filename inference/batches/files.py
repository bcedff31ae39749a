"""Files: sealed in frames under the organization's data key, bounded, kept for some days."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Count, Q, Sum

from inference.batches.models import FileFrame, StoredFile, frame_place
from kit.envelope import Ring, Unreadable, sealed_under
from kit.errors import Invalid, Refused
from kit.paging import paged
from tenants import datakeys
from tenants.models import Organization

MOST_BYTES = 256 * 1024 * 1024
"""An organization's, all files together."""
MOST = 10_000
"""An organization's, however small."""
SHORTEST, LONGEST = timedelta(hours=1), timedelta(days=30)
"""How long a file may be kept."""
_FRAME = 256 * 1024
_READ_AT_ONCE = 4
_MOST_PURGED = 100


class NoFile(Refused):
    """No file of this id, or another organization's."""

    status, code = 404, "file_not_found"


class TooManyBytes(Refused):
    """The organization's files take all the room there is."""

    status, code = 409, "file_storage_full"


class TooManyFiles(Refused):
    """The organization has as many as there may be."""

    status, code = 409, "too_many_files"


def keep(
    organization: int,
    *,
    name: str,
    purpose: str,
    content: Iterable[bytes],
    now: datetime,
    kept_for: timedelta = LONGEST,
) -> StoredFile:
    """Store a file. Raises `TooManyBytes`, `TooManyFiles`, and `Invalid` for an empty one.

    Uploads of one organization wait for each other: together they never exceed the room. What a
    batch has written is kept in any case.
    """
    ring = datakeys.ring(organization)
    with transaction.atomic():
        Organization.objects.select_for_update(no_key=True).get(pk=organization)
        held = StoredFile.objects.for_org(organization).aggregate(
            sum=Sum("bytes", default=0), count=Count("pk")
        )
        is_ours = purpose == StoredFile.Purpose.BATCH_OUTPUT
        if held["count"] >= MOST and not is_ours:
            raise TooManyFiles(
                f"file: your organization has {held['count']:,} files, and {MOST:,} is the most; "
                "delete some, or have them go by themselves (expires_after).",
                param="file",
            )
        file = StoredFile.objects.create(
            organization_id=organization,
            name=name,
            purpose=purpose,
            bytes=0,
            created_at=now,
            expires_at=now + kept_for,
        )
        room = None if is_ours else MOST_BYTES - held["sum"]
        file.bytes = _write(file, content, ring, room=room)
        if not file.bytes:
            raise Invalid("file: it is empty.", param="file")
        file.save(update_fields=["bytes"])
    return file


def one(organization: int, identifier: str) -> StoredFile:
    """By its id as callers have it, `file-…`. Raises `NoFile`."""
    found = None
    if (key := key_of(identifier, "file-")) is not None:
        found = StoredFile.objects.for_org(organization).filter(pk=key).first()
    if found is None:
        raise NoFile(f"There is no file {identifier[:80]!r}; GET /v1/files lists yours.")
    return found


def key_of(identifier: str, prefix: str) -> UUID | None:
    """The key in an id as callers have it."""
    try:
        return UUID(hex=identifier.removeprefix(prefix)) if identifier.startswith(prefix) else None
    except ValueError:
        return None


def listed(
    organization: int, *, purpose: str | None, after: str | None, most: int, oldest_first: bool
) -> list[StoredFile]:
    """A page behind the file `after`. Raises `NoFile`."""
    rows = StoredFile.objects.for_org(organization)
    if purpose is not None:
        rows = rows.filter(purpose=purpose)
    if after is not None:
        last = one(organization, after)
        side = "gt" if oldest_first else "lt"
        rows = rows.filter(
            Q(**{f"created_at__{side}": last.created_at})
            | Q(**{"created_at": last.created_at, f"id__{side}": last.pk})
        )
    order = ("created_at", "id") if oldest_first else ("-created_at", "-id")
    return list(rows.order_by(*order)[:most])


def content(file: StoredFile) -> Iterator[bytes]:
    """What is in it, whole. Raises `kit.envelope.Unreadable`, also if it is deleted meanwhile."""
    left = file.bytes
    for frame in paged(FileFrame.objects.filter(file=file), by="number", size=_READ_AT_ONCE):
        sealed = bytes(frame.sealed)
        ring = datakeys.ring(file.organization_id, needs=sealed_under(sealed))
        part = ring.unseal(sealed, frame_place(file.organization_id, file.pk, frame.number))
        left -= len(part)
        yield part
    if left:
        raise Unreadable(f"The file {file.pk} was deleted while it was read.")


def delete(organization: int, identifier: str) -> StoredFile:
    """Take it away, for good. Raises `NoFile`."""
    found = one(organization, identifier)
    key = found.pk
    found.delete()
    found.pk = key
    return found


def stored(*, at: datetime) -> dict[int, int]:
    """The bytes of the files that each organization had then and has still, by its primary key."""
    rows = StoredFile.objects.across_organizations().filter(created_at__lt=at, expires_at__gte=at)
    sums = rows.order_by().values("organization").annotate(sum=Sum("bytes"))
    return {row["organization"]: int(row["sum"]) for row in sums if row["sum"]}


def purge(*, now: datetime) -> int:
    """Delete what is kept no more, of every organization; how many."""
    purged = 0
    rows = StoredFile.objects.across_organizations().filter(expires_at__lte=now).order_by()
    while keys := list(rows.values_list("pk", flat=True)[:_MOST_PURGED]):
        StoredFile.objects.across_organizations().filter(pk__in=keys).delete()
        purged += len(keys)
    return purged


def _write(file: StoredFile, content: Iterable[bytes], ring: Ring, *, room: int | None) -> int:
    size = 0
    for number, part in enumerate(_framed(content)):
        size += len(part)
        if room is not None and size > room:
            raise TooManyBytes(
                f"The organization's files may take {MOST_BYTES:,} bytes in all; delete some."
            )
        place = frame_place(file.organization_id, file.pk, number)
        FileFrame.objects.create(file=file, number=number, sealed=ring.seal(part, place))
    return size


def _framed(content: Iterable[bytes]) -> Iterator[bytes]:
    held = bytearray()
    for part in content:
        held += part
        while len(held) >= _FRAME:
            yield bytes(held[:_FRAME])
            del held[:_FRAME]
    if held:
        yield bytes(held)
