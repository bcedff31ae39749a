"""The heads of the audit chains, kept outside the database: one JSON line a chain and day.

Whoever can rewrite the database cannot rewrite what was anchored, if the file named by
`settings.AUDIT_ANCHORS` lies where they cannot write: an append-only file, another host's mount.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from django.conf import settings

from tenants import audit
from tenants.audit import Flaw
from tenants.models import AuditEntry, AuditHead


@dataclass(frozen=True, slots=True)
class Anchor:
    """A chain's last entry at a time."""

    at: str
    chain: int
    sequence: int
    hash: str


def anchor(*, now: datetime) -> int:
    """Write down each head that moved since it was last written; how many did."""
    known = {each.chain: each.sequence for each in anchored()}
    moved = [
        Anchor(now.isoformat(), head.chain, head.sequence, head.hash)
        for head in AuditHead.objects.order_by("chain")
        if head.sequence > known.get(head.chain, 0)
    ]
    if moved:
        _append("".join(json.dumps(asdict(each)) + "\n" for each in moved))
    return len(moved)


def anchored() -> Iterator[Anchor]:
    """What was written, in order."""
    if not settings.AUDIT_ANCHORS.is_file():
        return
    with settings.AUDIT_ANCHORS.open() as lines:
        for line in lines:
            yield Anchor(**json.loads(line))


def verify() -> Iterator[Flaw]:
    """Every flaw of every chain, and every anchor that does not hold."""
    anchors: dict[int, list[Anchor]] = {}
    for each in anchored():
        anchors.setdefault(each.chain, []).append(each)
    for chain in sorted({*audit.chains(), *anchors}):
        yield from audit.verify(chain)
        yield from _adrift(chain, anchors.get(chain, []))


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
    """To disk before it counts as written."""
    settings.AUDIT_ANCHORS.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = os.open(settings.AUDIT_ANCHORS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(file, "a") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
