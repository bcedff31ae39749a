"""Answers given again: found by what was asked, in this process or in the cache Redis.

An answer is found by its organization, the model's version and edition, the prompt's tokens and
every parameter, marked under the organization's data key, and it lies sealed under it: nobody
else's can be met, and Redis says nothing of it. Where the cache is away, answers are made.
"""

from collections.abc import Sequence
from dataclasses import asdict
from threading import Lock
from time import monotonic, time

import orjson
import structlog
from redis.exceptions import RedisError

from inference import metrics
from inference.engine import Delta
from inference.jobs import Job, Reuse
from inference.worker.replay import SEMANTIC, Replay, dumped
from inference.worker.shelf import Shelf
from kit.envelope import Place, Ring, Unreadable
from tenants import answers
from tenants.answers import Forgotten, Meant

_LARGEST = 256 * 1024
"""Bytes of an answer that is kept."""
_LONGEST_AWAY = 30.0
"""Seconds after which what was told meanwhile may not be all there any more."""
_REST = 5.0
"""Seconds for which a cache that did not answer is not asked: one that hangs holds up who asks."""
_YOUNG = 8
"""An adaptive answer's time begins with this part of what it may become."""

log = structlog.get_logger()


class Replays:
    """This worker's way to answers that were made before, and how often it led somewhere."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self._heeding = Lock()
        self._heeded, self._last = float("-inf"), "0-0"
        self._away_until = float("-inf")
        self._lock = Lock()
        self._counts: dict[str, list[int]] = {}

    def find(self, job: Job, ring: Ring, entry: str) -> Replay | None:
        """The answer, if it was made before and may be given again."""
        if job.caching not in (Reuse.EXACT, Reuse.SEMANTIC):
            return None
        found, where = self._look(job, ring, entry)
        if found is not None or not job.meant:
            self.count(job.model, where if found else "miss")
        return found

    def near(self, job: Job, meeting: str) -> list[tuple[str, bytes]]:
        """The entries and sealed vectors of questions that may mean the same."""
        if monotonic() < self._away_until:
            return []
        try:
            return answers.near(job.organization, meeting)
        except RedisError as error:
            self._rest(error)
            return []

    def find_other(self, job: Job, ring: Ring, entry: str, meeting: str) -> Replay | None:
        """The answer to a question that means the same, as this one's."""
        found, _ = self._look(job, ring, entry, meeting)
        return found.to_another(job) if found else None

    def _look(
        self, job: Job, ring: Ring, entry: str, meeting: str = ""
    ) -> tuple[Replay | None, str]:
        sealed = self.shelf.get(job.organization, entry)
        found, where = _opened(job, entry, ring, sealed), "memory"
        if found is None:
            sealed = self._fetch(job, entry)
            found, where = _opened(job, entry, ring, sealed), "redis"
        if found is not None and job.cache_adaptive:
            self._prolong(job, found, sealed, meeting)
        return found, where

    def keep(
        self,
        job: Job,
        ring: Ring,
        entry: str,
        works: Sequence[Sequence[Delta]],
        meant: Meant | None = None,
    ) -> None:
        """Keep an answer that was made: the deltas of each work, the end included. One that was
        made anew takes the old one's place everywhere. `meant`: so that it is found in other
        words."""
        plain = orjson.dumps({"made": time(), "works": [dumped(each) for each in works]})
        if len(plain) > _LARGEST:
            return
        sealed = ring.seal(plain, _place(job, entry))
        seconds = _young(job) if job.cache_adaptive else job.cache_seconds
        if self._is_kept(job, entry, sealed, seconds, meant):
            self.shelf.put(job.organization, entry, sealed, seconds=seconds)

    def clear(self) -> None:
        """Begin anew: with nothing here."""
        self.shelf.clear()
        self._away_until = float("-inf")

    def heed(self) -> None:
        """Forget here what was forgotten elsewhere since the last time; for every second. Who was
        away for longer forgets everything. Raises RedisError."""
        with self._heeding:
            now = monotonic()
            if now - self._heeded > _LONGEST_AWAY:
                self._last = answers.last_told()
                self.shelf.clear()
            else:
                some, self._last = answers.told(self._last)
                for each in some:
                    self.shelf.forget(each.organization, each.beginning)
            self._heeded = now

    def counts(self, model: str) -> tuple[int, int, int]:
        """How often an answer was looked for, found, and found in other words, since the start."""
        with self._lock:
            looked, found, other = self._counts.get(model, (0, 0, 0))
            return looked, found, other

    def _is_kept(
        self, job: Job, entry: str, sealed: bytes, seconds: int, meant: Meant | None
    ) -> bool:
        """Whether Redis has it now, or does not answer: then it is kept here alone."""
        epoch = job.cache_epoch
        if monotonic() < self._away_until:
            return True
        try:
            kept = answers.put(
                job.organization, entry, sealed, seconds=seconds, epoch=epoch, meant=meant
            )
            if kept and job.caching == Reuse.REFRESH:
                answers.tell(Forgotten(job.organization, entry))
        except RedisError as error:
            self._rest(error)
            return True
        return kept

    def _fetch(self, job: Job, entry: str) -> bytes | None:
        since = self.shelf.forgets
        if monotonic() < self._away_until:
            return None
        try:
            found = answers.fetch(job.organization, entry)
        except RedisError as error:
            self._rest(error)
            return None
        if found is None:
            return None
        sealed, left = found
        seconds = min(left, job.cache_seconds)
        self.shelf.put(job.organization, entry, sealed, seconds=seconds, since=since)
        return sealed

    def _prolong(self, job: Job, found: Replay, sealed: bytes | None, meeting: str) -> None:
        """Keep what was asked for again for twice as long as it is old, within its organization's
        time; said to Redis once half of that is over."""
        age = time() - found.made
        seconds = int(min(max(_young(job), 2 * age), job.cache_seconds - age))
        left = self.shelf.left(job.organization, found.entry)
        if sealed is None or seconds < 1 or left > seconds / 2 or monotonic() < self._away_until:
            return
        try:
            there = answers.prolong(job.organization, found.entry, seconds=seconds, meeting=meeting)
        except RedisError as error:
            self._rest(error)
            return
        if there:
            self.shelf.put(job.organization, found.entry, sealed, seconds=seconds)

    def _rest(self, error: RedisError) -> None:
        log.warning("the cache does not answer; answers are made", error=str(error))
        self._away_until = monotonic() + _REST

    def count(self, model: str, outcome: str) -> None:
        """An answer was looked for: `memory`, `redis`, `semantic` or `miss`."""
        metrics.RESPONSE_CACHE.labels(model, outcome).inc()
        with self._lock:
            counts = self._counts.setdefault(model, [0, 0, 0])
            counts[0] += 1
            counts[1] += outcome != "miss"
            counts[2] += outcome == SEMANTIC


replays = Replays()


def entry_of(job: Job, ring: Ring, edition: str) -> str:
    """What its answer by that edition of its model is found by, among its organization's."""
    asked = orjson.dumps(
        [
            job.model,
            job.model_version,
            edition,
            job.cache_epoch,
            job.prompt,
            job.messages if not job.prompt else (),
            job.n,
            asdict(job.sampling),
        ]
    )
    marker = ring.marker(Place(job.organization, "cache.key", ""))
    return f"{job.model}:{marker.mark(asked).hex()}"


def _place(job: Job, entry: str) -> Place:
    return Place(job.organization, "cache.answer", entry)


def _opened(job: Job, entry: str, ring: Ring, sealed: bytes | None) -> Replay | None:
    """What may be given of what was found, if anything was."""
    if sealed is None:
        return None
    try:
        found = orjson.loads(ring.unseal(sealed, _place(job, entry)))
    except Unreadable:
        return None
    # Its organization may want answers kept for a shorter time than when it was made.
    if time() - found["made"] > job.cache_seconds:
        return None
    return Replay.load(entry, found)


def _young(job: Job) -> int:
    """Seconds that an adaptive answer has at first."""
    return max(1, job.cache_seconds // _YOUNG)
