"""Beginnings of finished requests, kept to be used again inside their organization."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from inference.engine.sequence import Sequence as Request


@dataclass(frozen=True, slots=True)
class Kept:
    """An organization's (and adapter's) tokens at a place, the first `prompt` run in chunks."""

    place: int
    tenant: str
    tokens: Sequence[int]
    prompt: int

    def serves(self, request: Request, chunk: int) -> int:
        """How many of a request's tokens need no computing, had it this in its slot.

        Whole chunks of the prompt, so that the rest is cut as if nothing had been there. With the
        same prompt also those tokens of the completion that both have: for a request that was
        preempted, or resumes. Of a free request's tokens, all but the last. To another organization
        it is of no use.
        """
        if self.tenant != request.work.salt:
            return 0
        prompt = len(request.work.prompt)
        same = _common(self.tokens, request.tokens)
        if request.free:
            return min(same, len(request.tokens) - 1)
        if self.prompt == prompt < len(request.tokens) and same >= prompt:
            return min(same, len(request.tokens) - 1)
        return min(same, self.prompt, prompt - 1) // chunk * chunk


class Shelf:
    """Remembers what stands at `places`; what was used longest ago goes first."""

    def __init__(self, places: Iterable[int]) -> None:
        self._places = frozenset(places)
        self._kept: dict[int, Kept] = {}

    def __iter__(self) -> Iterator[Kept]:
        return iter(self._kept.values())

    @property
    def tokens(self) -> int:
        """How many it holds."""
        return sum(len(kept.tokens) for kept in self._kept.values())

    def place_for(self, tokens: Sequence[int], tenant: str) -> int | None:
        """Where these tokens best go; None if there is no place, or they stand there already."""
        for kept in self._kept.values():
            if kept.tenant != tenant:
                continue
            same = _common(kept.tokens, tokens)
            if same == len(tokens):
                self.touch(kept.place)
                return None
            if same == len(kept.tokens):
                return kept.place
        free = self._places - self._kept.keys()
        return min(free) if free else next(iter(self._kept), None)

    def put(self, kept: Kept) -> None:
        """Note what was copied to a place."""
        self._kept.pop(kept.place, None)
        self._kept[kept.place] = kept

    def touch(self, place: int) -> None:
        """Somebody used it: it goes last. Nothing if the place is no shelf."""
        if place in self._kept:
            self._kept[place] = self._kept.pop(place)

    def drop(self) -> int | None:
        """Forget what was used longest ago; its place, if there was any."""
        place = next(iter(self._kept), None)
        if place is not None:
            del self._kept[place]
        return place

    def check(self) -> None:
        """Raise if something stands where no shelf is."""
        if not self._kept.keys() <= self._places:
            raise RuntimeError(f"shelves corrupted: {sorted(self._kept)} of {sorted(self._places)}")


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    most = min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    return next(n for n in range(most) if one[n] != other[n])
