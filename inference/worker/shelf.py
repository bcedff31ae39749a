"""Sealed answers in a worker's memory: organizations share it, and none pushes out another's."""

from collections import OrderedDict, defaultdict
from threading import Lock
from time import monotonic

_MOST = 32 * 1024 * 1024
"""Bytes of answers that a process keeps itself."""


class Shelf:
    """Sealed answers by organization and entry, each for its time.

    While there is room anybody has it. When there is none, whoever has most gives up what it used
    least lately: so an organization keeps at least an even share, whatever others do.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most, self._bytes = most, 0
        self._lock = Lock()
        self._kept: dict[int, OrderedDict[str, tuple[float, bytes]]] = defaultdict(OrderedDict)
        self._sizes: dict[int, int] = defaultdict(int)
        self.forgets = 0
        """How often something was forgotten: see `put`."""

    def get(self, organization: int, entry: str) -> bytes | None:
        """What lies there, if its time is not over."""
        with self._lock:
            mine = self._kept.get(organization, OrderedDict())
            until, sealed = mine.get(entry, (0.0, b""))
            if not sealed:
                return None
            if until < monotonic():
                self._drop(organization, entry)
                return None
            mine.move_to_end(entry)
            return sealed

    def left(self, organization: int, entry: str) -> float:
        """For how many seconds it will lie here."""
        with self._lock:
            until, _ = self._kept.get(organization, OrderedDict()).get(entry, (0.0, b""))
        return max(0.0, until - monotonic())

    def put(
        self,
        organization: int,
        entry: str,
        sealed: bytes,
        *,
        seconds: float,
        since: int | None = None,
    ) -> None:
        """Keep it for so long. `since`: unless something was forgotten since `forgets` was that:
        it may be the very answer, read before it went."""
        with self._lock:
            if since not in (None, self.forgets):
                return
            self._drop(organization, entry)
            self._kept[organization][entry] = (monotonic() + seconds, sealed)
            self._sizes[organization] += len(sealed)
            self._bytes += len(sealed)
            while self._bytes > self._most:
                largest = max(self._sizes, key=self._sizes.__getitem__)
                self._drop(largest, next(iter(self._kept[largest])))

    def forget(self, organization: int, beginning: str) -> None:
        """Forget what the organization has under entries that begin so."""
        with self._lock:
            self.forgets += 1
            mine = self._kept.get(organization, OrderedDict())
            for entry in [each for each in mine if each.startswith(beginning)]:
                self._drop(organization, entry)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self.forgets += 1
            self._kept.clear()
            self._sizes.clear()
            self._bytes = 0

    def _drop(self, organization: int, entry: str) -> None:
        mine = self._kept.get(organization)
        found = mine.pop(entry, None) if mine is not None else None
        if found is None:
            return
        self._bytes -= len(found[1])
        self._sizes[organization] -= len(found[1])
        if not mine:
            del self._kept[organization], self._sizes[organization]
