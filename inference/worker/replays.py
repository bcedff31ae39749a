"""Answers given again: found by what was asked, in this process or in the cache Redis.

An answer is found by its organization, the model's version and edition, the prompt's tokens and
every parameter, marked under the organization's data key, and it lies sealed under it: nobody
else's can be met, and Redis says nothing of it. Where the cache is away, answers are made.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from threading import Lock
from time import monotonic, time
from typing import Any

import orjson
import structlog
from redis.exceptions import RedisError

from inference import metrics
from inference.engine import Delta, FinishReason, Logprob, Outcome
from inference.jobs import Job, Reuse
from inference.worker.shelf import Shelf
from kit.envelope import Place, Ring, Unreadable
from tenants import answers
from tenants.answers import Forgotten

_LARGEST = 256 * 1024
"""Bytes of an answer that is kept."""
_LONGEST_AWAY = 30.0
"""Seconds after which what was told meanwhile may not be all there any more."""
_REST = 5.0
"""Seconds for which a cache that did not answer is not asked: one that hangs holds up who asks."""
_EXACT = "exact"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Replay:
    """An answer as it was made: the deltas of each of its works, joined."""

    deltas: tuple[Delta, ...]

    def of(self, works: Sequence[str]) -> list[Delta]:
        """As the answer of these works."""
        return [
            Delta(work, each.position, each.tokens, each.text, each.outcome, each.logprobs)
            for work, each in zip(works, self.deltas, strict=True)
        ]


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
        if job.caching != Reuse.EXACT:
            return None
        sealed = self.shelf.get(job.organization, entry)
        found, where = _opened(job, entry, ring, sealed), "memory"
        if found is None:
            sealed = self._fetch(job, entry)
            found, where = _opened(job, entry, ring, sealed), "redis"
        self._count(job.model, where if found else "miss")
        return found

    def keep(self, job: Job, ring: Ring, entry: str, deltas: Sequence[Delta]) -> None:
        """Keep an answer that was made: all deltas of each work, joined, the end included. One that
        was made anew takes the old one's place everywhere."""
        works = [_dumped(each) for each in deltas]
        plain = orjson.dumps({"made": time(), "works": works})
        if len(plain) > _LARGEST:
            return
        sealed = ring.seal(plain, _place(job, entry))
        if self._is_kept(job, entry, sealed):
            self.shelf.put(job.organization, entry, sealed, seconds=job.cache_seconds)

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

    def counts(self, model: str) -> tuple[int, int]:
        """How often an answer was looked for, and found, since the start."""
        with self._lock:
            looked, found = self._counts.get(model, (0, 0))
            return looked, found

    def _is_kept(self, job: Job, entry: str, sealed: bytes) -> bool:
        """Whether Redis has it now, or does not answer: then it is kept here alone."""
        seconds, epoch = job.cache_seconds, job.cache_epoch
        if monotonic() < self._away_until:
            return True
        try:
            kept = answers.put(job.organization, entry, sealed, seconds=seconds, epoch=epoch)
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

    def _rest(self, error: RedisError) -> None:
        log.warning("the cache does not answer; answers are made", error=str(error))
        self._away_until = monotonic() + _REST

    def _count(self, model: str, outcome: str) -> None:
        metrics.RESPONSE_CACHE.labels(model, outcome).inc()
        with self._lock:
            counts = self._counts.setdefault(model, [0, 0])
            counts[0] += 1
            counts[1] += outcome != "miss"


replays = Replays()


def joined(deltas: Sequence[Delta]) -> Delta:
    """A work's deltas, from its first to its last, in one."""
    return Delta(
        deltas[0].id,
        deltas[0].position,
        tuple(token for each in deltas for token in each.tokens),
        "".join(each.text for each in deltas),
        deltas[-1].outcome,
        tuple(logprob for each in deltas for logprob in each.logprobs),
    )


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
    return Replay(tuple(map(_loaded, found["works"])))


def _dumped(delta: Delta) -> dict[str, Any]:
    outcome = delta.outcome
    return {
        "tokens": delta.tokens,
        "text": delta.text,
        "logprobs": [(each.logprob, each.top) for each in delta.logprobs],
        "reason": outcome.reason.value if outcome else FinishReason.stop.value,
        "prompt_tokens": outcome.prompt_tokens if outcome else 0,
        "completion_tokens": outcome.completion_tokens if outcome else len(delta.tokens),
        "reasoning_tokens": outcome.reasoning_tokens if outcome else 0,
    }


def _loaded(found: dict[str, Any]) -> Delta:
    logprobs = tuple(
        Logprob(logprob, tuple((token, each) for token, each in top))
        for logprob, top in found["logprobs"]
    )
    outcome = Outcome(
        reason=FinishReason(found["reason"]),
        prompt_tokens=found["prompt_tokens"],
        cached_tokens=0,
        completion_tokens=found["completion_tokens"],
        cache=_EXACT,
        reasoning_tokens=found["reasoning_tokens"],
    )
    return Delta("", 0, tuple(found["tokens"]), found["text"], outcome, logprobs)
