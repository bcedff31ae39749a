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
    model that does not fit waits. `make` loads one, of the offers that share its engine; it may
    raise.
    """

    def __init__(
        self, offers: Sequence[Offer], make: Callable[[Sequence[Offer]], Station], *, memory: int
    ) -> None:
        self.offers = {offer.name: offer for offer in offers}
        self._make = make
        self._memory = memory
        self._lock = Lock()
        self._loaded: dict[str, Station] = {}
        self._used: dict[str, float] = {}
        self._failed: dict[str, float] = {}

    def __getitem__(self, model: str) -> Station:
        return self._loaded[self.offers[model].engine]

    def start(self) -> None:
        """Load what fits, in order: the first requests find their models warm."""
        for offer in self.offers.values():
            if self._fits(offer):
                self.of(offer.name)

    def of(self, model: str) -> Station | None:
        """The model's station; None if it isn't this worker's, or has no room, or won't load."""
        if model not in self.offers:
            return None
        station = self.running(model)
        if station is None:
            with self._lock:
                station = self.running(model) or self._load(self.offers[model])
        self._used[self.offers[model].engine] = monotonic()
        return station if station is None or station.serves(model) else None

    def running(self, model: str) -> Station | None:
        """The model's station, if it is loaded."""
        return self._loaded.get(self.offers[model].engine)

    def loaded(self) -> list[Station]:
        """Those that run now."""
        return list(self._loaded.values())

    def free(self, model: str) -> int:
        """How many more requests fit: one, to have it loaded, where it is not."""
        station = self.running(model)
        return station.free if station is not None else 1

    def is_well(self, model: str) -> bool:
        """Whether it runs, or nothing speaks against its running."""
        station = self.running(model)
        if station is None:
            return self.offers[model].engine not in self._failed
        return station.is_well() and station.serves(model)

    def _load(self, offer: Offer) -> Station | None:
        if monotonic() < self._failed.get(offer.engine, 0.0):
            return None
        try:
            if not self._make_room(offer):
                return None
            group = [each for each in self.offers.values() if each.engine == offer.engine]
            station = self._make(group)
        except Exception:
            log.exception("a model could not be loaded", model=offer.name)
            self._failed[offer.engine] = monotonic() + RETRY_SECONDS
            return None
        self._failed.pop(offer.engine, None)
        station.start()
        self._loaded[offer.engine] = station
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
        for station in sorted(heavy, key=lambda one: self._used.get(one.offer.engine, 0.0)):
            if station.close():
                station.stop()
                del self._loaded[station.offer.engine]
                log.info("unloaded", model=station.offer.name)
                return True
        return False


def _weight(offer: Offer) -> int:
    """The bytes of a model's files; a remote model has none here."""
    if offer.remote is not None or not offer.folder.is_dir():
        return 0
    return sum(file.stat().st_size for file in offer.folder.iterdir() if file.is_file())
