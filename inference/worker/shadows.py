"""Shadows: a share of a model's requests answered again by another one, while nothing else runs.

They are no requests: they stand in no line, have no lease, no stream, no row in history or ledger,
and count in no limit and no organization's share. What one is to answer waits in the cache Redis,
sealed, a few at a time and for minutes; what is too much, or is lost, is lost. Of a shadow one runs
at a time, of all workers, and only while its worker has time to spare; as soon as it has not, it
gives way. One that takes its worker with it is left alone for a while.
"""

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from queue import Empty, Full, Queue
from threading import Event, Thread
from time import monotonic, time

import structlog
from django.db import InterfaceError, OperationalError, connection
from redis.exceptions import RedisError

from inference import metrics
from inference.catalog.models import ShadowRun
from inference.catalog.offers import Offer, run_here
from inference.catalog.shadows import Made, record
from inference.fleet import fleet_now
from inference.worker.station import Station
from inference.worker.stations import Stations
from inference.worker.trials import Answering, Original, Trial
from kit.envelope import Unreadable
from kit.keepers import KeeperFailed
from kit.postgres import patience
from kit.redis import cached
from tenants import datakeys

MOST_WAITING = 32
"""Trials of one shadow; of more the oldest go."""
WAIT_SECONDS = 600
"""How long one may wait."""
MOST_TRIES = 3
LONGEST_SECONDS = 300
"""How long one may run."""
PAUSE_SECONDS = 600
"""How long a shadow rests after its worker died, or its engine broke."""
_POLL_SECONDS, _LOOK_SECONDS, _END_SECONDS = 0.5, 0.02, 5
_PATIENCE = 5.0
State = ShadowRun.State

log = structlog.get_logger()


class Shadows:
    """A worker's thread for them: hands over what its models answered, and runs what waits."""

    def __init__(self, stations: Stations) -> None:
        self._stations = stations
        self._originals: Queue[Original | None] = Queue(MOST_WAITING)
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="shadows", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; a run is given up."""
        self._stopped.set()
        with suppress(Full):
            self._originals.put_nowait(None)  # wakes it
        self._thread.join(10)

    def put(self, original: Original) -> None:
        """It has been answered."""
        try:
            self._originals.put_nowait(original)
        except Full:
            metrics.SHADOWS.labels(original.job.model, "dropped").inc()

    def _run(self) -> None:
        looked_at = monotonic()
        while not self._stopped.is_set():
            try:
                with suppress(Empty):
                    self._hand_over(self._originals.get(timeout=_POLL_SECONDS))
                if monotonic() - looked_at >= _POLL_SECONDS:
                    self._look()
                    looked_at = monotonic()
            except (RedisError, OperationalError, InterfaceError) as error:
                log.warning("no shadow runs: something does not answer", error=str(error))
            except Exception:
                log.exception("a shadow stumbled")
            finally:
                connection.close()

    def _hand_over(self, original: Original | None) -> None:
        made = original.answer.made if original is not None else None
        if original is not None and made is not None:
            self._wait(original.shadow, Trial.of(original, made))

    def _wait(self, shadow: str, trial: Trial) -> None:
        key = f"shadows:{shadow}"
        with cached().pipeline(transaction=False) as pipe:
            pipe.lpush(key, trial.dump())
            pipe.ltrim(key, 0, MOST_WAITING - 1)
            pipe.expire(key, WAIT_SECONDS)
            length = pipe.execute()[0]
        if length > MOST_WAITING:
            metrics.SHADOWS.labels(trial.model, "dropped").inc()

    def _look(self) -> None:
        """Run what waits for each shadow that is here, while there is time for it."""
        known = run_here()
        names = {each.shadow for each in known.values() if each.shadow} & set(self._stations.offers)
        for name in sorted(names):
            station = self._stations.running(name)
            while station is not None and self._may_begin(name, station):
                if not self._run_one(name, station):
                    break

    def _run_one(self, name: str, station: Station) -> bool:
        """Try what has waited longest; whether there was anything, and nothing in its way.

        Whoever runs one says so, and takes it back in the end. A worker that died with it does not,
        so that what killed it kills no other one soon.
        """
        if not cached().set(f"shadows:{name}:runs", 1, nx=True, ex=PAUSE_SECONDS):
            return False
        found = cached().rpop(f"shadows:{name}")
        try:
            if found is not None:
                trial = Trial.load(found)  # type: ignore[arg-type]
                self._try(station, self._stations.offers[name], trial)
        finally:
            if station.is_well():
                cached().delete(f"shadows:{name}:runs")
        return found is not None

    def _may_begin(self, name: str, station: Station) -> bool:
        """Whether there is something to run, nothing waits for any model, anywhere, and this worker
        has time."""
        if self._stopped.is_set() or not station.is_well() or not station.serves(name):
            return False
        return (
            bool(cached().llen(f"shadows:{name}"))
            and self._is_calm(station, own=0)
            and not any(fleet_now().waiting.values())
        )

    def _is_calm(self, station: Station, *, own: int) -> bool:
        """Whether half of the station's slots are free, and the other models here rest: they would
        share the processor with it. Remote ones compute elsewhere."""
        others = (each for each in self._stations.loaded() if each.offer.remote is None)
        busy = station.slots - station.free - own
        return busy * 2 <= station.slots and not any(
            each.held() for each in others if each is not station
        )

    def _try(self, station: Station, offer: Offer, trial: Trial) -> None:
        if time() - trial.at > WAIT_SECONDS:
            metrics.SHADOWS.labels(trial.model, "dropped").inc()
            return
        try:
            with patience(_PATIENCE):
                ring = datakeys.ring(trial.organization, needs=trial.sealed_under)
            asked = trial.opened(ring)
        except (Unreadable, KeeperFailed):
            return  # its organization was erased, or its key is out of reach
        answer = Answering()
        work = trial.work(asked, shadow=offer.name, adapters=station.adapters)
        if not station.take_slot():
            self._wait(offer.name, trial)
            return
        try:
            station.beside(work, answer.note)
            state = self._watch(station, work.id, answer)
        except Exception:
            log.exception("the engine did not take a shadow's work")
            state = State.FAILED
        finally:
            station.leave_beside(work.id)
        if state == State.GAVE_WAY and trial.tries + 1 < MOST_TRIES:
            self._wait(offer.name, replace(trial, tries=trial.tries + 1))
            return
        self._record(offer, trial, state, trial.original(asked), answer.made)

    def _watch(self, station: Station, work: str, answer: Answering) -> State:
        """Wait for its end, and bring it about where there is no more time for it."""
        until = monotonic() + LONGEST_SECONDS
        state = State.FAILED
        while not answer.done.wait(_LOOK_SECONDS) and station.is_well():
            gives_way = self._stopped.is_set() or not self._is_calm(station, own=1)
            if gives_way or monotonic() > until:
                station.engine.cancel(work)
                answer.done.wait(_END_SECONDS)
                state = State.GAVE_WAY if gives_way else State.FAILED
                break
        return State.ANSWERED if answer.made else state

    def _record(
        self, offer: Offer, trial: Trial, state: State, original: Made, again: Made | None
    ) -> None:
        metrics.SHADOWS.labels(trial.model, state.value).inc()
        with patience(_PATIENCE):
            record(
                trial.pair(offer.name, offer.version),
                state=state,
                prompt_tokens=trial.prompt_tokens,
                original=original,
                again=again,
                now=datetime.now(UTC),
            )
