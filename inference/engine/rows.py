"""Where in the cache's arrays each slot lies, kept so that the decoding ones lie side by side."""

import heapq
from collections.abc import Sequence

_PATIENCE = 4


class Rows:
    """A batch is a run of neighbouring rows; a row inside it that does not decode is computed for
    nothing.

    A slot gets the lowest free row at its first use. A free row that has stood between decoding
    ones for a few batches is filled with the last of them, by one move a batch: new arrivals
    usually fill it first, for free.
    """

    def __init__(self, count: int) -> None:
        self._free = list(range(count))
        self._row: dict[int, int] = {}
        self._gaps = 0

    def of(self, slot: int) -> int:
        """The slot's row; a slot without one gets the lowest free one."""
        if slot not in self._row:
            self._row[slot] = heapq.heappop(self._free)
        return self._row[slot]

    def holds(self, slot: int) -> bool:
        """Whether the slot has a row."""
        return slot in self._row

    def release(self, slot: int) -> None:
        """The slot's row is free again, if it had one."""
        if slot in self._row:
            heapq.heappush(self._free, self._row.pop(slot))

    def move(self, slots: Sequence[int]) -> tuple[int, int] | None:
        """The (source, target) rows to copy before these slots decode, already noted; or None."""
        last = max(slots, key=self._row.__getitem__)
        source = self._row[last]
        if not self._free or self._free[0] > source or self._is_run(slots):
            self._gaps = 0
            return None
        self._gaps += 1
        if self._gaps < _PATIENCE:
            return None
        target = heapq.heapreplace(self._free, source)
        self._row[last] = target
        return source, target

    def span(self, slots: Sequence[int]) -> range:
        """The run of rows that holds these slots."""
        rows = [self._row[slot] for slot in slots]
        return range(min(rows), max(rows) + 1)

    def check(self) -> None:
        """Raise if a row is lost or given twice."""
        rows = sorted([*self._free, *self._row.values()])
        if rows != list(range(len(rows))):
            raise RuntimeError(f"rows corrupted: free {self._free}, given {self._row}")

    def _is_run(self, slots: Sequence[int]) -> bool:
        return len(self.span(slots)) == len(slots)
