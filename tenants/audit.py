"""Who changed what: entries that are only ever added, each sealed with the one before it.

An entry's hash is SHA-256 over its fields and the hash before it, as JSON with sorted keys and
without spaces, so that anyone who has the rows can check them. The chain shows an edited, removed
or reordered row; `tenants.anchors` keeps heads outside the database, which shows a cut-off tail and
a chain that was written anew.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from django.db import models, transaction

from kit import origin
from kit.origin import Origin
from kit.paging import paged
from tenants.models import AuditEntry, AuditHead, Membership, User

PLATFORM = 0
"""The chain of what belongs to no organization: operators, prices."""

_LONGEST_NAME = 254
_FIELDS = (
    "chain", "sequence", "actor", "actor_name", "address", "agent",
    "action", "target", "before", "after", "previous",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Actor:
    """Who: `user:7`, `operator:7`, `key:<id>`, `system` or `nobody`, and a name to show."""

    id: str
    name: str = ""


SYSTEM = Actor("system", "the platform")
"""A command or a scheduled task."""
NOBODY = Actor("nobody")
"""Somebody who has not said who they are."""


@dataclass(frozen=True, slots=True)
class Change:
    """What: `key.revoked` of `key:<id>`, and the fields that differ, before and after."""

    action: str
    target: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Flaw:
    """Where a chain is not what was written, and what is wrong there."""

    chain: int
    sequence: int
    what: str


def operator(user: Any) -> Actor:
    """A member of staff, in the admin."""
    return Actor(f"operator:{user.pk}", user.email)


def person(user: User) -> Actor:
    """A member of an organization, or about to be."""
    return Actor(f"user:{user.pk}", user.email)


def record(
    change: Change,
    *,
    by: Actor,
    organization: int | None,
    now: datetime | None = None,
    where: Origin | None = None,
) -> AuditEntry:
    """Add an entry to the organization's chain (None: the platform's), in the caller's transaction.

    Where from is the running request's, if nothing else is said. Call it last: chains are written
    one entry at a time, and the lock is held until the commit.
    """
    chain = organization or PLATFORM
    where = where or origin.current()
    with transaction.atomic():
        AuditHead.objects.bulk_create([AuditHead(chain=chain)], ignore_conflicts=True)
        head = AuditHead.objects.select_for_update().get(chain=chain)
        entry = AuditEntry(
            chain=chain,
            sequence=head.sequence + 1,
            organization_id=organization,
            at=now or datetime.now(UTC),
            actor=by.id,
            actor_name=by.name,
            address=str(where.address or ""),
            agent=where.agent,
            action=change.action,
            target=change.target[:_LONGEST_NAME],
            before=plain(change.before or {}),
            after=plain(change.after or {}),
            previous=head.hash,
        )
        entry.hash = seal(entry)
        entry.save(force_insert=True)
        head.sequence, head.hash = entry.sequence, entry.hash
        head.save()
    return entry


def record_of(user: int, change: Change, *, by: Actor, now: datetime | None = None) -> AuditEntry:
    """`record` what concerns a person: in the platform's chain and in that of each organization
    they belong to; the platform's entry."""
    with transaction.atomic():
        entry = record(change, by=by, organization=None, now=now)
        for organization in organizations_of(user):
            record(change, by=by, organization=organization, now=entry.at)
    return entry


def organizations_of(user: int) -> list[int]:
    """Where a person belongs, in the order in which chains are locked."""
    rows = Membership.objects.across_organizations().filter(user=user)
    return sorted(rows.values_list("organization", flat=True))


def seal(entry: AuditEntry) -> str:
    """The hash that an entry of these fields must carry."""
    fields = {name: getattr(entry, name) for name in _FIELDS}
    fields["at"] = entry.at.astimezone(UTC).isoformat(timespec="microseconds")
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256(text.encode()).hexdigest()


def differences(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Only the fields that changed."""
    changed = [name for name in after if before.get(name) != after[name]]
    return {name: before.get(name) for name in changed}, {name: after[name] for name in changed}


def plain(value: Any) -> Any:
    """As JSON that PostgreSQL gives back unchanged: no floats, no NUL, rows by their key."""
    match value:
        case None | bool() | int():
            return value
        case str():
            return value.replace("\0", "")
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="microseconds")
        case models.Model():
            return value.pk
        case Mapping():
            return {str(name): plain(each) for name, each in value.items()}
        case list() | tuple() | models.QuerySet():
            return [plain(each) for each in value]
        case set() | frozenset():
            return sorted(plain(each) for each in value)
    return str(value)


def verify(chain: int) -> Iterator[Flaw]:
    """Every place where the chain is broken: edited, removed or reordered rows, and its end.

    It may grow meanwhile: what its head names before must be there, and what is there be named by
    its head afterwards.
    """
    expected, previous, named = 1, "", ""
    before = AuditHead.objects.filter(chain=chain).first()
    rows = AuditEntry.objects.across_organizations().filter(chain=chain)
    for entry in paged(rows, by="id", size=2000):
        if entry.sequence != expected:
            yield Flaw(chain, expected, f"missing: entry {entry.sequence} stands in its place")
        elif entry.previous != previous:
            yield Flaw(chain, entry.sequence, "does not follow the entry before it")
        if entry.hash != seal(entry) or entry.chain != (entry.organization_id or PLATFORM):
            yield Flaw(chain, entry.sequence, "edited: its hash is not that of its fields")
        expected, previous = entry.sequence + 1, entry.hash
        if before and entry.sequence == before.sequence:
            named = entry.hash
    after = AuditHead.objects.filter(chain=chain).first()
    if named != (before.hash if before else "") or expected - 1 > (after.sequence if after else 0):
        yield Flaw(chain, expected, "cut off: the chain's head is another entry")


def chains() -> list[int]:
    """All that have entries, or had."""
    rows = AuditEntry.objects.across_organizations().order_by("chain")
    heads = AuditHead.objects.values_list("chain", flat=True)
    return sorted({*rows.values_list("chain", flat=True).distinct(), *heads})
