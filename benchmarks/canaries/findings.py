"""What the drill looked at, and what should not have been there."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

CANARY = re.compile(r"canary-[0-9a-f]{12}")
_AROUND = 200
_ENOUGH = 0.9
"""The share of reaches for another's that must have been decided."""


class Kind(StrEnum):
    """What is wrong."""

    LEAK = "leak"
    """Another's canary, or success for another's thing."""
    UNEXPECTED = "unexpected"
    """Another status than a refusal; or a stored text that its owner's keys do not open."""
    MISSING = "missing"
    """An answer that came to its end, without its own canary."""
    DEAD = "dead"
    """A client that broke, or did not come to its end."""


@dataclass(frozen=True, slots=True)
class Where:
    """What was looked at: of which organization, and the request that it answers if it is one."""

    organization: str
    what: str
    method: str = ""
    path: str = ""
    status: int = 0
    request: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong; `other` is whose canary or thing it was."""

    kind: Kind
    organization: str
    other: str
    what: str
    method: str
    path: str
    status: int
    request: str
    time: str
    excerpt: str

    @classmethod
    def of(cls, kind: Kind, at: Where, excerpt: str, other: str = "") -> "Finding":
        """Found now."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        return cls(
            kind=kind,
            organization=at.organization,
            other=other,
            what=at.what,
            method=at.method,
            path=at.path,
            status=at.status,
            request=at.request,
            time=now,
            excerpt=excerpt,
        )

    def line(self) -> str:
        """For people."""
        asked = f" {self.method} {self.path} gave {self.status}" if self.method else ""
        other = f", of {self.other}" if self.other else ""
        request = f" ({self.request})" if self.request else ""
        return (
            f"{self.kind}: {self.what} of {self.organization}{other}:{asked}{request} {self.time} "
            f"{self.excerpt!r}"
        )


@dataclass
class Findings:
    """All of a drill; `names` is which organization a canary is of."""

    names: Mapping[str, str] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    checked: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    reached: Counter[str] = field(default_factory=Counter)
    """Reaches for another's: `decided`, and `undecided` where a busy platform never said."""
    wrong: list[Finding] = field(default_factory=list)

    def look(self, at: Where, text: str, own: str, *, must: bool = False) -> None:
        """Every canary in a text must be `own`; with `must` there has to be one."""
        self.checked[at.what] += 1
        found = dict[str, int]()
        for each in CANARY.finditer(text):
            found.setdefault(each[0], each.start())
        for canary, start in found.items():
            if canary != own:
                self.add(Kind.LEAK, at, around(text, start), self.names.get(canary, canary))
        if must and own not in found:
            self.add(Kind.MISSING, at, text[: 2 * _AROUND])

    def add(self, kind: Kind, at: Where, excerpt: str, other: str = "") -> None:
        """One more that is wrong."""
        self.wrong.append(Finding.of(kind, at, excerpt, other))

    def count(self, kind: Kind) -> int:
        """How many of a kind."""
        return sum(each.kind == kind for each in self.wrong)

    @property
    def decided(self) -> float:
        """The share of reaches that were answered one way or the other."""
        total = self.reached.total()
        return self.reached["decided"] / total if total else 0.0

    @property
    def is_whole(self) -> bool:
        """Whether the drill saw enough, and nothing wrong."""
        return not self.wrong and bool(self.answers) and self.decided >= _ENOUGH

    def write(self, path: Path) -> None:
        """All that is wrong, as JSON lines."""
        path.write_text("".join(json.dumps(asdict(each)) + "\n" for each in self.wrong))

    def take(self, lines: Iterable[str]) -> None:
        """What another process found and counted, as JSON lines."""
        for line in lines:
            data: dict[str, Any] = json.loads(line)
            if "checked" in data:
                self.checked.update(data["checked"])
            else:
                self.wrong.append(Finding(**{**data, "kind": Kind(data["kind"])}))


def around(text: str, at: int) -> str:
    """What stands around a place in a text."""
    return text[max(0, at - _AROUND) : at + _AROUND]
