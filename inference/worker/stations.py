"""A worker's models: which are loaded, which make room for others, which could not be loaded."""

from collections.abc import Callable, Sequence
from threading import Lock
from time import monotonic

import structlog

from inference.catalog.offers import Offer
from inference.worker.station import Station

RETRY_SECONDS = 30.0
"""A model that could not be loaded is tried again after so long."""

log = structlog.get_logger()


class Stations:
    """Loads models on demand within `memory` bytes of weights; 0 is no bound.

    Room is made by unloading the idle model that was least recently used; while none is idle, a
    model that does not fit waits. `make` loads one; it may raise.
    """

    def __init__(
        self, offers: Sequence[Offer], make: Callable[[Offer], Station], *, memory: int
    ) -> None:
        self.offers = {offer.name: offer for offer in offers}
        self._make = make
        self._memory = memory
        self._lock = Lock()
        self._loaded: dict[str, Station] = {}
        self._used: dict[str, float] = {}
        self._failed: dict[str, float] = {}

    def __getitem__(self, model: str) -> Station:
        return self._loaded[model]

    def start(self) -> None:
        """Load what fits, in order: the first requests find their models warm."""
        for offer in self.offers.values():
            if self._fits(offer):
                self.of(offer.name)

    def of(self, model: str) -> Station | None:
        """The model's station; None if it isn't this worker's, or has no room, or won't load."""
        if model not in self.offers:
            return None
        station = self._loaded.get(model)
        if station is None:
            with self._lock:
                station = self._loaded.get(model) or self._load(self.offers[model])
        self._used[model] = monotonic()
        return station

    def loaded(self) -> list[Station]:
        """Those that run now."""
        return list(self._loaded.values())

    def free(self, model: str) -> int:
        """How many more requests fit: one, to have it loaded, where it is not."""
        station = self._loaded.get(model)
        return station.free if station is not None else 1

    def is_well(self, model: str) -> bool:
        """Whether it runs, or nothing speaks against its running."""
        station = self._loaded.get(model)
        return station.is_well() if station is not None else model not in self._failed

    def _load(self, offer: Offer) -> Station | None:
        if monotonic() < self._failed.get(offer.name, 0.0):
            return None
        try:
            if not self._make_room(offer):
                return None
            station = self._make(offer)
        except Exception:
            log.exception("a model could not be loaded", model=offer.name)
            self._failed[offer.name] = monotonic() + RETRY_SECONDS
            return None
        self._failed.pop(offer.name, None)
        station.start()
        self._loaded[offer.name] = station
        log.info("loaded", model=offer.name)
        return station

    def _make_room(self, offer: Offer) -> bool:
        if self._memory and _weight(offer) > self._memory:
            raise MemoryError(f"{offer.name} alone takes more than ENGINE_MEMORY")
        while not self._fits(offer):
            if not self._unload_one():
                return False
        return True

    def _fits(self, offer: Offer) -> bool:
        held = sum(map(_weight, (station.offer for station in self.loaded())))
        return not self._memory or held + _weight(offer) <= self._memory

    def _unload_one(self) -> bool:
        """Unload the idle one least recently used, if any."""
        heavy = [station for station in self.loaded() if _weight(station.offer)]
        for station in sorted(heavy, key=lambda one: self._used.get(one.offer.name, 0.0)):
            if station.close():
                station.stop()
                del self._loaded[station.offer.name]
                log.info("unloaded", model=station.offer.name)
                return True
        return False


def _weight(offer: Offer) -> int:
    """The bytes of a model's files; a remote model has none here."""
    if offer.remote is not None or not offer.folder.is_dir():
        return 0
    return sum(file.stat().st_size for file in offer.folder.iterdir() if file.is_file())
