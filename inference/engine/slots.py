"""The places in the key-value cache: who holds which."""

import heapq


class Slots:
    """`count` slots; the lowest free one is given first, which keeps the running ones together."""

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"an engine needs at least one slot, not {count}")
        self.count = count
        self._free = list(range(count))
        self._held: set[int] = set()

    @property
    def free(self) -> int:
        """How many are free."""
        return len(self._free)

    def take(self) -> int:
        """The lowest free slot; IndexError when none is."""
        slot = heapq.heappop(self._free)
        self._held.add(slot)
        return slot

    def give(self, slot: int) -> None:
        """Free a held slot; KeyError when it is not held."""
        self._held.remove(slot)
        heapq.heappush(self._free, slot)

    def check(self) -> None:
        """Raise if a slot is lost, or both free and held."""
        if sorted([*self._free, *self._held]) != list(range(self.count)):
            raise RuntimeError(f"slots corrupted: free {self._free}, held {sorted(self._held)}")
