"""Answers to questions that mean the same: found by vectors, among those whose words say the same.

Everything but what was asked last must be equal to the letter: organization, model, version and
edition, parameters, and all of the prompt before and after it. The words of what was asked last
that carry meaning must be equal, too (`inference.gist`). Of questions that have all that in common
those are compared whose vectors are kept; nobody's vectors meet anybody else's.

It is done beside the engines, by threads of its own, for those requests alone that want it: the
sentence encoder of this worker is asked as any request would ask it, and given a second.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from threading import BoundedSemaphore, Event

import numpy as np
import orjson
import structlog
from django.conf import settings

from inference.catalog.offers import Offer
from inference.engine import Delta, Sampling, Text, Texts, Vectors, vectors_of
from inference.gist import gist
from inference.job import Job, Reuse
from inference.worker.held import Held
from inference.worker.replay import SEMANTIC, Replay
from inference.worker.replays import replays
from inference.worker.stations import Stations
from kit.envelope import Place, Ring, Unreadable
from tenants.answers import Meant

_THREADS, _MOST_WAITING = 4, 64
_PATIENCE = 1.0
"""Seconds for the encoder; then the answer is made as if nothing had been found."""
_LONGEST = 4_000
"""Characters of a question that is compared by meaning."""

log = structlog.get_logger()

Then = Callable[[Held, Sequence[Delta]], None]


class Meanings:
    """This worker's threads for them; `Stations` has the encoder, if this worker runs it."""

    def __init__(self, stations: Stations) -> None:
        self._stations = stations
        self._threads = ThreadPoolExecutor(_THREADS, "meanings")
        self._room = BoundedSemaphore(_MOST_WAITING)

    def seek(self, held: Held, *, edition: str, text: Text, then: Then) -> None:
        """Look for the answer of one whose own question was not met; `then` hears of it, or of
        nothing, in a thread of these, or at once where too many wait."""
        if not self._room.acquire(blocking=False):
            replays.count(held.claim.job.model, "miss")
            then(held, ())
            return
        self._threads.submit(self._seek, held, edition, text, then)

    def stop(self) -> None:
        """Take nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _seek(self, held: Held, edition: str, text: Text, then: Then) -> None:
        found: Sequence[Delta] = ()
        try:
            found = self._found(held, edition, text)
        except Exception:
            log.exception("what a question means was not found out; it is answered")
        finally:
            self._room.release()
        then(held, found)

    def _found(self, held: Held, edition: str, text: Text) -> Sequence[Delta]:
        job, ring = held.claim.job, held.ring
        encoder = self._stations.offers.get(settings.DEFAULT_EMBEDDING_MODEL)
        around = _around(job, text)
        found: Replay | None = None
        if ring is not None and encoder is not None and around is not None:
            vector = self._vector(encoder, held)
            if vector is not None:
                meeting = _meeting(job, ring, edition, around, encoder)
                plain = vector.astype("<f2").tobytes()
                held.meant = Meant(meeting, ring.seal(plain, _place(job, held.entry)))
                if job.caching == Reuse.SEMANTIC:
                    found = _nearest(job, ring, meeting, vector)
        if job.caching == Reuse.SEMANTIC:
            replays.count(job.model, SEMANTIC if found else "miss")
        return held.given(found)

    def _vector(self, encoder: Offer, held: Held) -> Vectors | None:
        """Of what was asked last; None where it is too long, or the encoder has no time."""
        job = held.claim.job
        row = tuple(encoder.reader.encode(job.meant))
        if len(row) > encoder.reader.context:
            return None
        station = self._stations.of(encoder.name)
        if station is None or not station.take_slot():
            return None
        work = Texts(
            id=f"meaning/{held.choices.works[0]}",
            tenant=str(job.organization),
            prompt=row,
            lengths=(len(row),),
            sampling=Sampling(max_tokens=1),
            priority=job.priority,
        )
        ends: list[Delta] = []
        over = Event()

        def hear(delta: Delta) -> None:
            ends.append(delta)
            over.set()

        try:
            station.beside(work, hear)
            if not over.wait(_PATIENCE):
                station.engine.cancel(work.id)
        finally:
            station.leave_beside(work.id)
        if not ends or not ends[0].text:
            return None
        vectors: Vectors = vectors_of(ends[0].text, count=1)
        return vectors[0]  # type: ignore[no-any-return]


def _nearest(job: Job, ring: Ring, meeting: str, vector: Vectors) -> Replay | None:
    """The answer to the question that is most like it, if that is alike enough."""
    found = [
        (float(other @ vector), entry)
        for entry, sealed in replays.near(job, meeting)
        if (other := _opened(ring, sealed, _place(job, entry))) is not None
    ]
    for likeness, entry in sorted(found, reverse=True):
        if likeness < job.likeness:
            return None
        if (answer := replays.find_other(job, ring, entry, meeting)) is not None:
            return answer
    return None


def _opened(ring: Ring, sealed: bytes, place: Place) -> Vectors | None:
    try:
        return np.frombuffer(ring.unseal(sealed, place), "<f2").astype(np.float32)
    except Unreadable:
        return None


def _place(job: Job, entry: str) -> Place:
    return Place(job.organization, "cache.vector", entry)


def _meeting(job: Job, ring: Ring, edition: str, around: bytes, encoder: Offer) -> str:
    """The mark of all that two questions have in common whose answers are the same."""
    common = [job.model, job.model_version, edition, job.cache_epoch, job.n, asdict(job.sampling)]
    common += [encoder.name, encoder.version, gist(job.meant)]
    marker = ring.marker(Place(job.organization, "cache.meeting", ""))
    return f"{job.model}:{marker.mark(orjson.dumps(common) + around).hex()}"


def _around(job: Job, text: Text) -> bytes | None:
    """The whole prompt but for what was asked last; None where that is not to be found in it."""
    if len(job.meant) > _LONGEST or not gist(job.meant):
        return None
    if not job.prompt:
        *turns, last = job.messages
        return orjson.dumps([*turns, {**last, "content": None}])
    asked, pieces = job.meant.encode(), [text.pieces[token] for token in job.prompt]
    begins = b"".join(pieces).rfind(asked)
    if begins < 0:
        return None
    ends, at = begins + len(asked), 0
    before: list[int | str] = []
    after: list[int | str] = []
    for token, piece in zip(job.prompt, pieces, strict=True):
        until = at + len(piece)
        if until <= begins:
            before.append(token)
        elif at >= ends:
            after.append(token)
        elif not piece:
            return None  # a mark of the template's own stands in the middle of it
        else:
            # A token may have a part of what stands around.
            before.append(piece[: max(0, begins - at)].hex())
            after.append(piece[len(piece) - max(0, until - ends) :].hex())
        at = until
    return orjson.dumps([[each for each in part if each != ""] for part in (before, after)])
