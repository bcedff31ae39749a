"""A worker process: its stations and threads, started together and drained together."""

import os
import socket
from collections.abc import Sequence
from functools import partial
from threading import Event
from time import monotonic
from uuid import uuid4

import structlog
from django.conf import settings
from redis.exceptions import RedisError

from inference import bell, jobs
from inference.announce import Announcement, announce
from inference.catalog.offers import Offer
from inference.engine import load_embedder, load_engine
from inference.worker.attendant import Attendant
from inference.worker.embedding import EmbeddingStation
from inference.worker.finisher import Finisher
from inference.worker.held import Held, requeue
from inference.worker.meanings import Meanings
from inference.worker.remote import RemoteStation
from inference.worker.shadows import Shadows
from inference.worker.station import Station
from inference.worker.stations import Stations
from inference.worker.watch import Watch

_SPARE = 4
"""Requests that a full engine still takes, of organizations that run nothing in it."""

log = structlog.get_logger()


class Host:
    """Serves models until it is drained."""

    def __init__(self, offers: Sequence[Offer], *, slots: int, threads: int | None = None) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:6]}"
        self._finisher = Finisher()
        self._stations = Stations(
            offers,
            lambda group: self._station(group, slots, threads),
            memory=settings.ENGINE_MEMORY,
        )
        self._shadows = Shadows(self._stations)
        self._meanings = Meanings(self._stations)
        self._watch = Watch(worker=self.name, stations=self._stations, sealed=self._finisher.finish)
        self._attendant = Attendant(self.name, self._stations, self.answer)
        self._draining = Event()

    def start(self) -> None:
        """Begin; requests left waiting while no worker lived are announced by the watch."""
        self._finisher.start()
        self._stations.start()
        self._watch.start()
        self._shadows.start()
        log.info("serving", worker=self.name, models=list(self._stations.offers))

    def attend(self) -> None:
        """Begin to answer the bells of the models that are loaded."""
        self._attendant.start()

    def heed(self, model: str, *, passed: int) -> None:
        """An announcement has come: what comes from now on is announced again."""
        jobs.heard(model)
        self.answer(model, passed=passed)

    def answer(self, model: str, *, passed: int = 0) -> None:
        """Requests wait: take them, up to half of the room, so that other workers get their share.

        Should more wait, the bell rings for the next worker; a full one passes the announcement on,
        and claims by itself as slots fall free.
        """
        most = max(1, self._room(model) // 2)
        begun = self.serve(model, most=most)
        offer = self._stations.offers.get(model)
        if offer is None:
            return
        if self._room(model):
            if begun < most or bell.ring(model):
                return
            passed = 0
        else:
            passed = 1 if begun else passed + 1
        if jobs.to_be_told(model, passed=passed):
            announce(Announcement(model, offer.queue, passed=passed))

    def serve(self, model: str, *, most: int | None = None) -> int:
        """Begin waiting requests of a model until none waits or none fits; returns how many.

        Whoever leaves a slot of a full engine has the next claimed. But an organization that runs
        nothing in it does not wait for that: the engine makes room.
        """
        begun = 0
        while begun != most:
            station = self._stations.of(model)
            held = self._claim(station, model) if station is not None else None
            if station is None or held is None:
                break
            with structlog.contextvars.bound_contextvars(request_id=str(held.claim.job.id)):
                log.info("claimed", model=held.claim.job.model, attempt=held.claim.attempt)
                station.begin(held)
            begun += 1
        return begun

    def _room(self, model: str) -> int:
        """How many more requests fit."""
        station = None if self._draining.is_set() else self._stations.running(model)
        return station.free if station is not None else 0

    def _claim(self, station: Station, model: str) -> Held | None:
        """Lease a request that fits; one at a time, so that it is known whose run here already."""
        with station.claims:
            if self._draining.is_set():
                return None
            passing_over = frozenset[int]()
            if not station.take_slot():
                if not station.take_slot(spare=True):
                    return None
                passing_over = station.organizations()
            claim = None
            try:
                claims = (
                    jobs.claim(model=name, worker=self.name, passing_over=passing_over)
                    for name in station.turns(model)
                )
                claim = next((each for each in claims if each is not None), None)
            finally:
                if claim is None:
                    station.free_slot()
            return station.hold(claim) if claim is not None else None

    def _station(self, group: Sequence[Offer], slots: int, threads: int | None) -> Station:
        offer = group[0]
        sealed, vacant = self._finisher.finish, partial(self.serve, offer.name)
        if offer.remote is not None:
            return RemoteStation(
                offer,
                slots=settings.REMOTE_STREAMS,
                sealed=sealed,
                vacant=vacant,
                meanings=self._meanings,
            )
        if offer.is_encoder:
            embedder = load_embedder(offer.folder, threads=threads)
            return EmbeddingStation(
                offer, embedder, slots=slots, sealed=sealed, vacant=vacant, spare=_SPARE
            )
        device = offer.device if offer.device.startswith(("cpu", "cuda")) else None
        engine = load_engine(
            offer.folder,
            slots=slots,
            threads=threads,
            device=device,
            cache_tokens=settings.ENGINE_CACHE_TOKENS or None,
            adapters={each.name: each.adapter for each in group if each.adapter is not None},
        )
        served = [each for each in group if not each.adapter or each.name in engine.adapters]
        return Station(
            offer,
            engine,
            slots=slots,
            sealed=sealed,
            vacant=vacant,
            spare=_SPARE,
            group=served,
            shadowed=self._shadows.put,
            meanings=self._meanings,
        )

    @property
    def is_draining(self) -> bool:
        """Whether this worker is about to end."""
        return self._draining.is_set()

    def drain(self, seconds: float) -> None:
        """Take nothing new; let running requests end for `seconds`, then hand the rest over."""
        self._attendant.stop()
        self._draining.set()
        self._shadows.stop()
        for station in self._stations.loaded():
            with station.claims:
                pass  # whoever claimed is through with it, and nobody else will
        until = monotonic() + seconds
        for station in self._stations.loaded():
            for held in station.held():
                held.gone.wait(max(0.0, until - monotonic()))
        for station in self._stations.loaded():
            self._hand_over(station)
            station.stop()
        self._meanings.stop()
        self._finisher.stop()
        self._watch.stop()
        log.info("drained", worker=self.name)

    def _hand_over(self, station: Station) -> None:
        left = station.held()
        try:
            models = requeue(left)
        except RedisError as error:
            log.warning("could not hand over; the leases will run out", error=str(error))
            models = []
        for held in left:
            station.drop(held)
        for model in set(models):
            announce(Announcement(model, self._stations.offers[model].queue))
        if left:
            log.info("handed over", model=station.offer.name, requests=len(left))
