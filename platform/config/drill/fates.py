"""What the state Redis says became of each request: where it stands, and when it was cancelled."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from config.drill.heard import Heard

_FIELDS = ("state", "position", "attempt", "worker", "told_at", "sealed")
_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Fate:
    """A request as Redis has it; of one that it has not (any more) nothing is known."""

    state: str = ""
    position: int = 0
    attempt: int = 0
    worker: str = ""
    told_at: int | None = None
    """How many tokens it had when it was told to stop, running."""
    sealed: float | None = None
    """When it ended (`time.monotonic`)."""

    @property
    def late(self) -> int | None:
        """How many tokens were delivered after it was told to stop."""
        return None if self.told_at is None else self.position - self.told_at

    def __str__(self) -> str:
        if not self.state:
            return "Redis does not know it"
        where = f" by {self.worker}" if self.worker else ""
        return f"{self.state}{where}, attempt {self.attempt}, {self.position} tokens"


def fates(state: Any, heard: Sequence[Heard]) -> list[Fate]:
    """Of each, in order."""
    found: list[Fate] = []
    ahead = time.time() - time.monotonic()
    for first in range(0, len(heard), _AT_ONCE):
        with state.pipeline(transaction=False) as pipe:
            for each in heard[first : first + _AT_ONCE]:
                pipe.hmget(f"job:{each.request}", *_FIELDS)
            found += [_fate(fields, ahead) for fields in pipe.execute()]
    return found


def _fate(fields: Sequence[bytes | None], ahead: float) -> Fate:
    state, position, attempt, worker, told_at, sealed = fields
    return Fate(
        state=(state or b"").decode(),
        position=int(position or 0),
        attempt=int(attempt or 0),
        worker=(worker or b"").decode(),
        told_at=None if told_at is None else int(told_at),
        sealed=None if sealed is None else int(sealed) / 1000 - ahead,
    )
