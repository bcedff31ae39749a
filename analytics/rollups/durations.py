"""How long requests took, counted in steps that grow: small, and they add up.

Step 0 ends at 2 ms, each following one is 1.3 times as long (the last has no end: past 7 minutes).
What is read from them is the middle of the right step, so within 15 % of the true value.
"""

from collections.abc import Sequence

FIRST_MS, GROWTH, STEPS = 2.0, 1.3, 48
BOUNDS = tuple(FIRST_MS * GROWTH**step for step in range(STEPS - 1))
"""Where each step but the last ends, in ms."""


def percentile(counts: Sequence[int], share: float) -> float | None:
    """How many ms `share` of what was counted took at most; None where nothing was."""
    wanted, below = share * sum(counts), 0
    for step, count in enumerate(counts):
        below += count
        if count and below >= wanted:
            middle: float = FIRST_MS * GROWTH ** (step - 0.5)
            return round(middle, 1)
    return None


def added(some: Sequence[Sequence[int]]) -> list[int]:
    """All of them together."""
    return [sum(each) for each in zip(*some, strict=True)] if some else [0] * STEPS
