"""The pauses that collecting garbage makes, kept rare.

A full collection looks through everything that lives, and nothing else runs meanwhile: with 2,000
open streams for a fifth of a second, every few seconds. Reference counts free nearly all; only
cycles wait for it, and they can wait a little.
"""

import gc
from time import monotonic
from typing import ClassVar

_FULL = 2
_SHARE, _LONGEST = 300, 60.0
"""A full collection may take one part in so many of the time, so that of a hundred events not one
meets it; and is not put off for longer than so many seconds."""
_NEVER = 2**30


class Pauses:
    """Lets a full collection begin once the last one is long enough ago, for what it took."""

    _began: ClassVar[float] = 0.0
    _due: ClassVar[float] = 0.0
    _usual: ClassVar[tuple[int, int, int]] = gc.get_threshold()

    @classmethod
    def note(cls, phase: str, said: dict[str, int]) -> None:
        """A collection begins or has ended (`gc.callbacks`)."""
        if said["generation"] == 0:
            return
        now = monotonic()
        if said["generation"] == _FULL and phase == "start":
            cls._began = now
        elif said["generation"] == _FULL:
            cls._due = now + min(_SHARE * (now - cls._began), _LONGEST)
            cls._allow(_NEVER)
        elif phase == "stop" and now >= cls._due:
            cls._allow(cls._usual[_FULL])

    @classmethod
    def _allow(cls, after: int) -> None:
        """A full collection after so many lesser ones."""
        first, second, _ = cls._usual
        gc.set_threshold(first, second, after)


def keep_rare() -> None:
    """From now on, for this process; what is loaded already stays, and is not looked through."""
    gc.collect()
    gc.freeze()
    if Pauses.note not in gc.callbacks:
        gc.callbacks.append(Pauses.note)
