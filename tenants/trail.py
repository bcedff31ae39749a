"""Reading an organization's audit log: filtered, in pages, and whole."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from operator import or_
from typing import Any

import orjson
from django.db.models import Q

from kit import sheets
from tenants.models import AuditEntry
from tenants.scoping import OwnedQuerySet

COLUMNS = (
    "sequence", "at", "actor", "actor_name", "address", "agent",
    "action", "target", "before", "after", "previous", "hash",
)  # fmt: skip
_SEARCHED = ("action", "actor", "actor_name", "address", "target")
_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries; empty fields let all through. `action` may be a beginning: `key.`."""

    action: str = ""
    actor: str = ""
    target: str = ""
    since: datetime | None = None
    until: datetime | None = None
    q: str = ""
    """A part of the action, the actor, its name, the address or the target, in any case."""


def page(
    organization: int, only: Filter, *, before: int | None, most: int
) -> tuple[list[dict[str, Any]], int | None]:
    """The newest entries below the sequence `before`, and where the next page begins, if there is.

    New entries don't move the pages behind the first.
    """
    rows = _rows(organization, only).order_by("-sequence")
    if before is not None:
        rows = rows.filter(sequence__lt=before)
    found = [_entry(row) for row in rows[: most + 1]]
    return found[:most], found[most - 1]["sequence"] if len(found) > most else None


def newer(organization: int, only: Filter, *, before: int, most: int) -> int | None:
    """Where the page begins that comes before the one below `before`; None: it is the first."""
    rows = _rows(organization, only).filter(sequence__gte=before).order_by("sequence")
    found = list(rows.values_list("sequence", flat=True)[: most + 1])
    return found[most] if len(found) > most else None


def chunks(organization: int, only: Filter, *, form: str, after: int = 0) -> Iterator[bytes]:
    """All entries, oldest first, as `csv` or `jsonl`."""
    if form == "csv":
        yield sheets.rows([COLUMNS])
    while rows := list(
        _rows(organization, only).filter(sequence__gt=after).order_by("sequence")[:_CHUNK]
    ):
        entries = [_entry(row) for row in rows]
        if form == "csv":
            yield sheets.rows(map(_cells, entries))
        else:
            yield b"".join(orjson.dumps(entry) + b"\n" for entry in entries)
        after = rows[-1].sequence


def _rows(organization: int, only: Filter) -> OwnedQuerySet[AuditEntry]:
    # Both say whose; by the chain PostgreSQL reads entries in their order, up to a page's end.
    rows = AuditEntry.objects.for_org(organization).filter(chain=organization)
    if only.q:
        some = [Q(**{f"{name}__icontains": only.q}) for name in _SEARCHED]
        rows = rows.filter(reduce(or_, some))
    if only.action:
        rows = rows.filter(action__startswith=only.action)
    if only.actor:
        rows = rows.filter(actor=only.actor)
    if only.target:
        rows = rows.filter(target=only.target)
    if only.since:
        rows = rows.filter(at__gte=only.since)
    if only.until:
        rows = rows.filter(at__lt=only.until)
    return rows


def _entry(row: AuditEntry) -> dict[str, Any]:
    entry = {name: getattr(row, name) for name in COLUMNS}
    entry["at"] = row.at.astimezone(UTC).isoformat(timespec="microseconds")
    return entry


def _cells(entry: dict[str, Any]) -> list[str]:
    return [_cell(entry[name]) for name in COLUMNS]


def _cell(value: Any) -> str:
    text = orjson.dumps(value).decode() if isinstance(value, dict) else str(value)
    return sheets.cell(text)
