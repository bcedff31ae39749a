"""The heads of the audit chains, kept outside the database: one JSON line a chain and day.

Whoever can rewrite the database cannot rewrite what was anchored, if the file named by
`settings.AUDIT_ANCHORS` lies where they cannot write: an append-only file, another host's mount. It
is one file for all replicas. That it was begun is in the platform's chain, so a file that is gone,
or is not there on the machine that looks, is noticed, and nobody begins another unasked.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Max

from tenants import audit
from tenants.audit import Actor, Change, Flaw
from tenants.models import AuditEntry, AuditHead

_BEGUN = "audit.anchors_begun"
_SOON = timedelta(days=2)
"""How old an entry may be that no anchor covers: anchors are taken once a day."""


class AnchorsMissing(Exception):
    """Anchors were begun, but their file is not here."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A chain's last entry at a time."""

    at: str
    chain: int
    sequence: int
    hash: str


def anchor(*, now: datetime, anew: bool = False, by: Actor = audit.SYSTEM) -> int:
    """Write down each head that moved since it was last written; how many did.

    The first time begins the file. Raises `AnchorsMissing` where it was begun and is not there:
    `anew` begins another, and that is recorded.
    """
    if not settings.AUDIT_ANCHORS.is_file():
        if (begun := _begun()) is not None and not anew:
            raise AnchorsMissing(_missing(begun))
        _append("")
        change = Change(_BEGUN, "audit.anchors", after={"file": str(settings.AUDIT_ANCHORS)})
        audit.record(change, by=by, organization=None, now=now)
    known: dict[int, int] = {}
    for each in anchored():
        known[each.chain] = max(each.sequence, known.get(each.chain, 0))
    moved = [
        Anchor(now.isoformat(), head.chain, head.sequence, head.hash)
        for head in AuditHead.objects.order_by("chain")
        if head.sequence > known.get(head.chain, 0)
    ]
    if moved:
        _append("".join(json.dumps(asdict(each)) + "\n" for each in moved))
    return len(moved)


def anchored() -> Iterator[Anchor]:
    """What was written and can be read, in order."""
    return (each for _, each in _lines() if each is not None)


def verify(*, now: datetime) -> Iterator[Flaw]:
    """Every flaw of every chain, every anchor that does not hold, and anchors that should be."""
    anchors: dict[int, list[Anchor]] = {}
    for number, each in _lines():
        if each is None:
            what = f"line {number} of the anchors does not read: torn as it was written, or altered"
            yield Flaw(audit.PLATFORM, 0, f"{what}; look, then take the line away")
        else:
            anchors.setdefault(each.chain, []).append(each)
    if not settings.AUDIT_ANCHORS.is_file() and (begun := _begun()) is not None:
        yield Flaw(audit.PLATFORM, begun.sequence, _missing(begun))
    for chain in sorted({*audit.chains(), *anchors}):
        yield from audit.verify(chain)
        yield from _adrift(chain, anchors.get(chain, []))
    yield from _uncovered(anchors, now)


def _lines() -> Iterator[tuple[int, Anchor | None]]:
    """Each line's number and anchor; None where it is none."""
    if not settings.AUDIT_ANCHORS.is_file():
        return
    with settings.AUDIT_ANCHORS.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            yield number, _anchor(line)


def _anchor(line: str) -> Anchor | None:
    try:
        found = Anchor(**json.loads(line))
    except (ValueError, TypeError):
        return None
    numbers = isinstance(found.chain, int) and isinstance(found.sequence, int)
    return found if numbers and line.endswith("\n") else None


def _begun() -> AuditEntry | None:
    rows = AuditEntry.objects.across_organizations().filter(chain=audit.PLATFORM, action=_BEGUN)
    return rows.order_by("sequence").last()


def _missing(begun: AuditEntry) -> str:
    return (
        f"anchors gone: they were begun on {begun.at.isoformat()}, and {settings.AUDIT_ANCHORS} is "
        "not there; have AUDIT_ANCHORS name the one file of all replicas, bring it back, or begin "
        "another by `manage.py audit anchor --anew`"
    )


def _uncovered(anchors: Mapping[int, list[Anchor]], now: datetime) -> Iterator[Flaw]:
    """Entries that should have been anchored: nobody takes anchors, or they lie elsewhere."""
    rows = AuditEntry.objects.across_organizations().filter(at__lt=now - _SOON).order_by()
    due: Mapping[int, int] = dict(
        rows.values_list("chain").annotate(last=Max("sequence")).values_list("chain", "last")
    )
    late = {
        chain: last
        for chain, last in sorted(due.items())
        if last > max((each.sequence for each in anchors.get(chain, ())), default=0)
    }
    why = f"not anchored for {_SOON.days} days: does beat run, and is this the file it writes to?"
    if late and not anchors:
        chain, last = next(iter(late.items()))
        yield Flaw(chain, last, f"{why} No chain is anchored at all")
        return
    for chain, last in late.items():
        yield Flaw(chain, last, why)


def _adrift(chain: int, anchors: list[Anchor]) -> Iterator[Flaw]:
    rows = AuditEntry.objects.across_organizations().filter(
        chain=chain, sequence__in={each.sequence for each in anchors}
    )
    found: Mapping[int, str] = dict(rows.values_list("sequence", "hash"))
    for each in anchors:
        if each.sequence not in found:
            yield Flaw(chain, each.sequence, f"cut off: anchored on {each.at}, and gone")
        elif found[each.sequence] != each.hash:
            yield Flaw(chain, each.sequence, f"not the entry that was anchored on {each.at}")


def _append(text: str) -> None:
    """To disk before it counts as written; a line that a crash tore is ended first."""
    settings.AUDIT_ANCHORS.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = os.open(settings.AUDIT_ANCHORS, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            text = "\n" + text
        rest = text.encode()
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    finally:
        os.close(file)
