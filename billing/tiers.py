"""What a month's units come to where a price falls with the quantity. Pure arithmetic.

In data: `{"mode": "graduated", "steps": [[0, 0], [1000000, 150000000]]}`. A step is from how many
units on it counts, and its nanos for a million; the first begins at 0. What is included is a first
step at nothing.

Graduated: each unit at the rate of its own step. Volume: all units at the rate of the step that the
month has reached, but never more than the first units of a later step would come to; so one more
unit never makes a month cheaper.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from kit import money

MOST_STEPS = 20


class Mode(StrEnum):
    """How steps count."""

    GRADUATED = "graduated"
    VOLUME = "volume"


@dataclass(frozen=True, slots=True)
class Tiers:
    """A meter's steps: from how many units on, and nanos for a million."""

    mode: Mode
    steps: tuple[tuple[int, int], ...]

    def amount(self, units: int) -> int:
        """What a month of so many units comes to, in nanos, rounded half to even once."""
        return money.of_millionths(
            self._graduated(units) if self.mode is Mode.GRADUATED else self._volume(units)
        )

    def between(self, start: int, units: int) -> int:
        """What `units` that follow the first `start` of the month come to: parts add up."""
        return self.amount(start + units) - self.amount(start)

    def _graduated(self, units: int) -> int:
        ends = [*(begin for begin, _ in self.steps[1:]), units]
        return sum(
            (min(end, units) - begin) * rate
            for (begin, rate), end in zip(self.steps, ends, strict=True)
            if begin < units
        )

    def _volume(self, units: int) -> int:
        reached = [rate for begin, rate in self.steps if begin <= units]
        later = [begin * rate for begin, rate in self.steps if begin > units]
        return min([units * reached[-1], *later])


def parse(data: Mapping[str, object]) -> Tiers:
    """From a price version's data, which `problem` has found nothing wrong with."""
    steps: object = data["steps"]
    assert isinstance(steps, list)  # noqa: S101
    return Tiers(Mode(str(data["mode"])), tuple((begin, rate) for begin, rate in steps))


def problem(data: object, rates: Mapping[str, int]) -> str:
    """Why `data` is no tiers by meter for a price list of `rates`; or "".

    No step may be dearer than the list price, which is what requests hold of the credit: so the
    month's end never charges more than they were admitted for.
    """
    if not isinstance(data, dict):
        return "An object of meters and their tiers."
    for meter, tiers in data.items():
        if meter not in rates:
            return f"{meter}: it has no list price to begin from."
        if found := _problem(tiers, rates[meter]):
            return f"{meter}: {found}"
    return ""


def _problem(tiers: object, list_price: int) -> str:
    if not isinstance(tiers, dict) or set(tiers) != {"mode", "steps"}:
        return "an object of mode and steps is wanted."
    if tiers["mode"] not in list(Mode):
        return f"mode: {tiers['mode']!r} is none of {', '.join(Mode)}."
    steps = tiers["steps"]
    if not isinstance(steps, list) or not 1 <= len(steps) <= MOST_STEPS:
        return f"steps: 1 to {MOST_STEPS} are wanted."
    for step in steps:
        if not _is_step(step):
            return f"{step!r} is no step; write [from units, nanos for a million]."
        if step[1] > list_price:
            return f"{step!r} is dearer than the list price of {list_price}."
    if steps[0][0] != 0 or any(one[0] >= two[0] for one, two in pairwise(steps)):
        return "steps: the first begins at 0 units, each later one above the one before."
    return ""


def _is_step(step: object) -> bool:
    return (
        isinstance(step, list)
        and len(step) == 2
        and all(type(number) is int and 0 <= number < 2**53 for number in step)
    )
