"""Watching over requests: leases kept alive, cancellations heard, dead workers' work taken up."""

from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from uuid import UUID

import orjson
import structlog
from django.conf import settings
from django.db import connection
from redis.exceptions import RedisError

from inference import jobs, occupancy, pace, sealed
from inference.announce import Announcement, announce
from inference.catalog.offers import held_offers, published
from inference.fleet import Fleet, fleet_now
from inference.jobs import Reaper, Verdict
from inference.pace import runs
from inference.worker.finisher import finish_each
from inference.worker.replays import replays
from inference.worker.stations import Stations
from kit import redis as kit_redis

_BEAT_SECONDS = 1.0
_REAP_SECONDS = 0.5
_ALIVE_MS = 5_000
_OVERDUE_MS = 3_000
_MOST_AT_ONCE, _MOST_PASSES = 64, 64

log = structlog.get_logger()


class Watch:
    """Four threads: one beats each second, one reaps, one books what was left, one listens for
    messages to this worker.

    Booking waits for PostgreSQL where that is away or hangs; leases and lines must not wait with
    it.
    """

    def __init__(self, *, worker: str, stations: Stations, sealed: Callable[[UUID], None]) -> None:
        self._worker = worker
        self._stations = stations
        self._sealed = sealed
        self._stopped = Event()
        self._role = Reaper.OTHER
        self._dedicated = [
            (offer.dedicated_to, offer.name)
            for offer in stations.offers.values()
            if offer.dedicated_to is not None
        ]
        self._threads = [
            Thread(target=self._beat, name="watch", daemon=True),
            Thread(target=self._reap, name="reaper", daemon=True),
            Thread(target=self._book, name="overdue books", daemon=True),
            Thread(target=self._listen, name="control", daemon=True),
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; the worker counts as gone at once."""
        self._stopped.set()
        with suppress(RedisError):
            kit_redis.state().publish(f"worker:{self._worker}", "stop")  # wakes who listens
        for thread in self._threads[:3]:
            thread.join(5)
        kit_redis.state().delete(f"worker:{self._worker}")
        kit_redis.state().srem("workers", self._worker)

    def _beat(self) -> None:
        while True:
            try:
                self._renew()
                self._hand_back()
                self._report()
                self._hold()
                replays.heed()
                self._announce_again()
            except RedisError as error:
                log.warning("Redis does not answer the watch", error=str(error))
            except Exception:
                log.exception("the watch stumbled")
            finally:
                connection.close()
            if self._stopped.wait(_BEAT_SECONDS):
                return

    def _reap(self) -> None:
        """No step of it asks PostgreSQL."""
        while not self._stopped.wait(_REAP_SECONDS):
            try:
                self._role = jobs.beat(worker=self._worker)
                if self._role in (Reaper.REAPS, Reaper.OF_DEAF):
                    take_up(of_deaf=self._role is Reaper.OF_DEAF)
                if self._role is not Reaper.OTHER:
                    keep_lines()
            except RedisError as error:
                log.warning("Redis does not answer the reaper", error=str(error))
            except Exception:
                log.exception("the reaper stumbled")

    def _book(self) -> None:
        while not self._stopped.wait(_REAP_SECONDS):
            try:
                if self._role is not Reaper.OTHER or self._dedicated:
                    published()  # keeps the catalog fresh for the reaper, and for what is held
                if self._role is not Reaper.OTHER:
                    book_overdue()
            except RedisError as error:
                log.warning("Redis does not answer the books", error=str(error))
            except Exception:
                log.exception("the books stumbled")
            finally:
                connection.close()

    def _renew(self) -> None:
        held = [(station, each) for station in self._stations.loaded() for each in station.held()]
        unbegun = {station: station.unbegun() for station, _ in held}
        verdicts = jobs.renew(
            [
                (each.claim.job.id, each.claim.attempt, each.is_begun(unbegun[station]))
                for station, each in held
            ]
        )
        for (station, each), verdict in zip(held, verdicts, strict=True):
            if verdict == Verdict.LOST:
                station.drop(each)
            elif verdict != Verdict.OK:
                station.cancel(str(each.claim.job.id), verdict)

    def _hand_back(self) -> None:
        for station in self._stations.loaded():
            for model in set(station.hand_back()):
                announce(Announcement(model, self._stations.offers[model].queue))

    def _report(self) -> None:
        report = {model: self._stats(model) for model in self._stations.offers}
        with kit_redis.state().pipeline(transaction=False) as pipe:
            pipe.sadd("workers", self._worker)
            pipe.set(f"worker:{self._worker}", orjson.dumps(report), px=_ALIVE_MS)
            pipe.execute()

    def _hold(self) -> None:
        """What is dedicated to organizations, loaded here and well, and still on offer."""
        offered = held_offers()
        loaded = [
            (owner, name)
            for owner, name in self._dedicated
            if name in offered
            and self._stations.running(name) is not None
            and self._stations.is_well(name)
        ]
        occupancy.hold(self._worker, loaded)

    def _stats(self, model: str) -> dict[str, float]:
        station = self._stations.running(model)
        stats = station.engine.stats() if station is not None else None
        looked, found, alike = replays.counts(model)
        return {
            "well": self._stations.is_well(model),
            "failing": station is not None and station.breaker.is_open,
            "loaded": stats is not None,
            "slots": station.slots if station is not None else 0,
            "seconds": runs.seconds(model),
            "running": station.running(model) if station is not None else 0,
            "prompt_tokens": stats.prompt_tokens if stats else 0,
            "cached_tokens": stats.cached_tokens if stats else 0,
            "answers_looked_for": looked,
            "answers_found": found,
            "answers_found_alike": alike,
        }

    def _announce_again(self) -> None:
        """An announcement can be lost with its process, or with the broker."""
        for offer in self._stations.offers.values():
            if self._stations.free(offer.name) and jobs.unclaimed(
                offer.name, older_than_ms=_OVERDUE_MS
            ):
                announce(Announcement(offer.name, offer.queue))

    def _listen(self) -> None:
        while not self._stopped.is_set():
            try:
                with kit_redis.listener() as client, client.pubsub() as channel:
                    channel.subscribe(f"worker:{self._worker}", "workers")
                    for message in channel.listen():
                        if self._stopped.is_set():
                            return
                        if message["type"] == "message":
                            self._obey(message["data"].decode())
            except RedisError:
                self._stopped.wait(_BEAT_SECONDS)

    def _obey(self, message: str) -> None:
        match message.split():
            case ["cancel", request, reason]:
                for station in self._stations.loaded():
                    station.cancel(request, reason)
            case ["forget"]:
                replays.heed()
            case ["finish", request] if sealed.take(UUID(request)):
                self._sealed(UUID(request))


def take_up(*, of_deaf: bool = False) -> None:
    """Put dead workers' requests back in line, and tell the others."""
    known = held_offers()
    for model in set(jobs.requeue_expired(of_deaf=of_deaf)):
        if (offer := known.get(model)) is not None:
            announce(Announcement(model, offer.queue))


def keep_lines() -> None:
    """Turn away whose time is over and whom nobody serves; tell how long lines may be."""
    pace.watch_memory()
    fleet = fleet_now(held_offers())
    pace.publish(fleet)
    for model, waiting in fleet.waiting.items():
        if waiting:
            jobs.expire(model)
    _turn_away(fleet)


def book_overdue() -> None:
    """Book what was left sealed. What fails is put off, and never met twice in one pass."""
    for _ in range(_MOST_PASSES):
        overdue = sealed.overdue(older_than_ms=_OVERDUE_MS, most=_MOST_AT_ONCE)
        if not overdue or not finish_each(overdue) or len(overdue) < _MOST_AT_ONCE:
            return


def _turn_away(fleet: Fleet) -> None:
    """Requests of models that no worker can serve: a model may have fallen ill, or been lost."""
    wait = settings.UNSERVED_SECONDS * 1000
    for model, waiting in fleet.waiting.items():
        if waiting and not fleet.serving(model):
            count = jobs.turn_away(model, after_ms=wait, unread_after_ms=wait * 30)
            if count:
                log.error("turned away: no worker serves the model", model=model, requests=count)
