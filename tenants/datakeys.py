"""Each organization's data keys: made at first use, held unwrapped for minutes, destroyed for good.

A process holds an organization's keys for five minutes, then fetches them again behind its callers'
backs; should the keeper of the key-encryption key not answer, it goes on with what it holds for ten
more. Between processes only wrapped keys travel (`tenants.records`). Destroying the rows leaves
everything that the organization's keys have sealed unreadable, in backups too: see
`docs/security.md` for what a backup of the rows means.
"""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime

import structlog
from django.db import DatabaseError, close_old_connections, connection, transaction
from django.db.models import Max
from redis.exceptions import RedisError

from kit import keepers
from kit.envelope import KEY_BYTES, Ring, Unreadable
from kit.errors import Unavailable
from kit.keepers import KeeperFailed
from kit.paging import paged
from tenants import audit
from tenants.audit import Actor, Change
from tenants.models import DataKey, Organization
from tenants.records import Fields, Records, changing
from tenants.scoping import OwnedQuerySet

PLATFORM = 0
"""Whose keys seal what belongs to no organization: the secrets of remote models."""
FRESH_SECONDS = 300.0
HELD_SECONDS = 900.0
_KIND = "datakeys"
_MOST_HELD = 10_000

log = structlog.get_logger()
_held: dict[int, tuple[float, Ring]] = {}
_renewals: dict[int, asyncio.Task[None]] = {}


def ring(organization: int, *, needs: int = 0) -> Ring:
    """The organization's data keys, for threads; not without the version that a text `needs`.

    Raises `Unreadable` where it has none any more, and `KeeperFailed`.
    """
    found = _held_for(organization, needs)
    if found is not None and found[0] < FRESH_SECONDS:
        return found[1]
    try:
        return _hold(organization, _unwrapped(organization, _rows(organization)))
    except KeeperFailed:
        if found is None:
            raise
        log.exception("a data key could not be unwrapped; the one held serves on")
        return found[1]
    finally:
        if not connection.in_atomic_block:
            close_old_connections()


async def aring(organization: int, *, needs: int = 0) -> Ring:
    """The same for the event loop: without the database while records are warm.

    Raises `Unavailable` where the keys cannot be had now.
    """
    found = _held_for(organization, needs)
    if found is None:
        try:
            return await _fetch(organization)
        except (RedisError, DatabaseError, KeeperFailed, Unreadable) as error:
            log.warning("data keys are out of reach", organization=organization, error=str(error))
            raise Unavailable("The organization's data key is out of reach; try again.") from error
    age, held = found
    if age > FRESH_SECONDS and organization not in _renewals:
        renewal = asyncio.create_task(_renew(organization))
        _renewals[organization] = renewal
        renewal.add_done_callback(lambda _: _renewals.pop(organization, None))
    return held


def forget(organization: int | None = None) -> None:
    """Drop what this process holds, of one organization or of all."""
    if organization is None:
        _held.clear()
        _records.forget()
    else:
        _held.pop(organization, None)


def renew(organization: int, *, now: datetime, by: Actor = audit.SYSTEM) -> int:
    """A new data key for what is sealed from now on (in every process within minutes).

    What the older ones sealed stays readable. Returns the new version.
    """
    with transaction.atomic(), changing(_KIND, organization):
        _lock(organization)
        newest = _of(organization).aggregate(newest=Max("version"))["newest"] or 0
        _make(organization, newest + 1)
        change = Change(
            "data_key.renewed", f"data_key:{newest + 1}", {"version": newest}, _is(newest + 1)
        )
        audit.record(change, by=by, organization=organization or None, now=now)
    forget(organization)
    return int(newest) + 1


def destroy(organization: int) -> int:
    """Delete all data keys, so that nothing they sealed opens again; how many there were.

    In the caller's transaction, which records it.
    """
    with changing(_KIND, organization):
        count, _ = _of(organization).delete()
    forget(organization)
    return count


def rewrap(*, now: datetime, each: Callable[[], None] = lambda: None) -> int:
    """Put every data key under the newest key-encryption key; how many were put.

    Nothing that runs notices: the data keys stay the same. It may be stopped and run again.
    `each` is called for every key looked at.
    """
    moved = 0
    for row in paged(DataKey.objects.across_organizations(), size=500):
        each()
        if keepers.is_current(row.wrapped):
            continue
        whose = row.organization_id or PLATFORM
        about = _about(whose, row.version)
        wrapped = keepers.wrap(keepers.unwrap(row.wrapped, about=about), about=about)
        with changing(_KIND, whose):
            # One that was destroyed or moved meanwhile stays so.
            moved += (
                DataKey.objects.across_organizations()
                .filter(pk=row.pk, wrapped=row.wrapped)
                .update(wrapped=wrapped, wrapped_at=now)
            )
    return moved


def _held_for(organization: int, needs: int) -> tuple[float, Ring] | None:
    """Age and keys, if they are not too old, and have the version that is needed."""
    since, held = _held.get(organization, (float("-inf"), None))
    age = time.monotonic() - since
    if held is None or age > HELD_SECONDS or max(held.keys) < needs:
        return None
    return age, held


def _hold(organization: int, found: Ring) -> Ring:
    if len(_held) >= _MOST_HELD:
        _held.clear()
    _held[organization] = (time.monotonic(), found)
    return found


async def _fetch(organization: int) -> Ring:
    wrapped = await _records.get(str(organization))
    if wrapped is None:
        raise Unreadable("This organization has no data keys any more.")
    return _hold(organization, await asyncio.to_thread(_unwrapped, organization, wrapped))


async def _renew(organization: int) -> None:
    try:
        await _fetch(organization)
    except Unreadable:
        forget(organization)
    except Exception:
        log.exception("data keys could not be renewed; those held serve on")


def _unwrapped(organization: int, wrapped: Mapping[int, str]) -> Ring:
    return Ring(
        {
            version: keepers.unwrap(text, about=_about(organization, version))
            for version, text in wrapped.items()
        }
    )


def _rows(organization: int) -> dict[int, str]:
    """The wrapped keys by version; the first is made here. Raises `Unreadable`."""
    found = dict(_of(organization).values_list("version", "wrapped"))
    if found:
        return found
    with transaction.atomic():
        _lock(organization)
        found = dict(_of(organization).values_list("version", "wrapped"))
        return found or {1: _make(organization, 1)}


def _make(organization: int, version: int) -> str:
    wrapped = keepers.wrap(os.urandom(KEY_BYTES), about=_about(organization, version))
    DataKey.objects.create(organization_id=organization or None, version=version, wrapped=wrapped)
    return wrapped


def _lock(organization: int) -> None:
    """Nobody else makes or destroys this organization's keys until the commit."""
    if organization == PLATFORM:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('platform data keys'))")
        return
    living = Organization.objects.filter(pk=organization, erased_at=None)
    if living.select_for_update(no_key=True).values_list("pk").first() is None:
        raise Unreadable("This organization does not exist, or was erased.")


def _of(organization: int) -> OwnedQuerySet[DataKey]:
    if organization == PLATFORM:
        return DataKey.objects.across_organizations().filter(organization=None)
    return DataKey.objects.for_org(organization)


def _about(organization: int, version: int) -> str:
    return f"data key {version} of organization {organization}"


def _is(version: int) -> dict[str, int]:
    return {"version": version}


def _load(identifier: str) -> Fields | None:
    try:
        return {str(version): text for version, text in _rows(int(identifier)).items()}
    except Unreadable:
        return None


def _shape(fields: Fields) -> dict[int, str]:
    return {int(version): text for version, text in fields.items()}


_records = Records(_KIND, load=_load, shape=_shape)
