"""What a client wants, how it behaves, and what it has heard: its side of the account."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

LOST = "lost"
"""How a request ended that the state Redis forgot."""
LINGER_SECONDS = 15.0
"""How long a resumable request whose readers are gone has to wait for one to come back."""


class Habit(StrEnum):
    """How a client behaves."""

    STREAM = "stream"
    SOCKET = "socket"
    WHOLE = "whole"
    BACKGROUND = "background"
    HANG_UP = "hang up"
    CANCEL = "cancel"
    TWICE = "twice"
    """Asks the same twice at once, under one Idempotency-Key."""
    BATCH = "batch"
    """A line of a batch; see `config.drill.batches`."""
    LEAVE = "leave"
    """A plain client of OpenAI's endpoint that closes its connection and never comes back."""


EVERY = tuple(Habit)
READING = frozenset({Habit.STREAM, Habit.SOCKET})
"""Whose clients hear each token as it comes."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked; `expected` is its answer, where that is known beforehand."""

    prompt: str
    expected: str | None
    sampling: dict[str, Any]


@dataclass
class Heard:
    """One request as its client knows it."""

    habit: Habit
    organization: str
    wish: Wish
    request: str = ""
    text: str = ""
    reason: str = ""
    usage: dict[str, int] = field(default_factory=dict)
    entry: str = ""
    breaks: int = 0
    lost: list[str] = field(default_factory=list)
    """Requests that it was told were lost, before or in this one's place."""
    shed: list[str] = field(default_factory=list)
    """Requests that gave way in line before this one took their place."""
    twins: set[str] = field(default_factory=set)
    """The requests under which the same was answered."""
    plain: bool = False
    """Whether it was sent without an Idempotency-Key."""
    left_at: int = 0
    """How many tokens had come when its client left for good, at least."""
    left: float | None = None
    """When that was (`time.monotonic`)."""
    is_cancelled: bool = False
    """Whether the platform said that it was cancelled."""
    trouble: str = ""
    """What last made its client come back."""
    pauses: list[tuple[float, float]] = field(default_factory=list)
    """When nothing came in the middle of the answer: from, to (`time.monotonic`)."""

    @property
    def problem(self) -> str:
        """What is wrong with what was heard, or ""."""
        if self.reason == LOST:
            return "was lost"
        expected = self.wish.expected
        is_left = self.habit in (Habit.HANG_UP, Habit.CANCEL, Habit.LEAVE)
        if is_left and self.reason == "shed" and not self.text:
            return ""
        if is_left and self.reason == "cancelled":
            said = expected is None or expected.startswith(self.text)
            return "" if said else "heard what was never said"
        if self.is_cancelled:
            return f"ended with {self.reason} after it was told to be cancelled"
        if self.reason not in ("stop", "length"):
            return f"ended with {self.reason or 'nothing'}"
        return "" if expected is None or self.text == expected else "a gap or a repeat"

    @property
    def said(self) -> int | None:
        """How many tokens the echo model's answer is: a letter each, and the end; None where that
        is not known."""
        if self.wish.expected is None or self.reason not in ("stop", "cancelled"):
            return None
        return len(self.text.encode()) + (self.reason == "stop")
