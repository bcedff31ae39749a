"""Answers given again: found by what was asked, in this process or in the cache Redis.

An answer is found by its organization, the model and its version, the prompt's tokens and every
parameter, marked under the organization's data key, and it lies sealed under it: nobody else's can
be met, and Redis says nothing of it. Where the cache is away, answers are made.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from threading import Lock
from time import monotonic
from typing import Any

import orjson
import structlog
from redis.exceptions import RedisError

from inference import metrics
from inference.engine import Delta, FinishReason, Logprob, Outcome
from inference.jobs import Job, Reuse
from kit.envelope import Place, Ring, Unreadable
from kit.redis import cached

_LARGEST = 256 * 1024
"""Bytes of an answer that is kept."""
_MOST_HERE = 32 * 1024 * 1024
"""Bytes of answers that a process keeps itself."""
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


class Shelf:
    """Sealed answers in memory, the least used going first; each for its time."""

    def __init__(self, most: int = _MOST_HERE) -> None:
        self._most, self._bytes = most, 0
        self._lock = Lock()
        self._kept: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    def get(self, key: str) -> bytes | None:
        """What lies there, if its time is not over."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            until, sealed = found
            if until < monotonic():
                self._drop(key)
                return None
            self._kept.move_to_end(key)
            return sealed

    def put(self, key: str, sealed: bytes, *, seconds: float) -> None:
        """Keep it for so long."""
        with self._lock:
            self._drop(key)
            self._kept[key] = (monotonic() + seconds, sealed)
            self._bytes += len(sealed)
            while self._bytes > self._most:
                self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def _drop(self, key: str) -> None:
        if found := self._kept.pop(key, None):
            self._bytes -= len(found[1])


class Replays:
    """This worker's way to answers that were made before, and how often it led somewhere."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self._lock = Lock()
        self._counts: dict[str, list[int]] = {}

    def find(self, job: Job, ring: Ring) -> Replay | None:
        """The answer, if it was made before and may be given again."""
        if job.caching != Reuse.EXACT:
            return None
        key = _key(job, ring)
        where, sealed = "memory", self.shelf.get(key)
        if sealed is None:
            where, sealed = "redis", self._fetch(job, key)
        found = _opened(job, key, ring, sealed) if sealed else None
        self._count(job.model, where if found else "miss")
        return found

    def keep(self, job: Job, ring: Ring, deltas: Sequence[Delta]) -> None:
        """Keep an answer that was made: all deltas of each work, joined, the end included."""
        plain = orjson.dumps([_dumped(each) for each in deltas])
        if len(plain) > _LARGEST:
            return
        key = _key(job, ring)
        sealed = ring.seal(plain, _place(job, key))
        self.shelf.put(key, sealed, seconds=job.cache_seconds)
        try:
            cached().set(f"answer:{key}", sealed, ex=job.cache_seconds)
        except RedisError as error:
            log.warning("the cache does not answer; an answer is kept here alone", error=str(error))

    def counts(self, model: str) -> tuple[int, int]:
        """How often an answer was looked for, and found, since the start."""
        with self._lock:
            looked, found = self._counts.get(model, (0, 0))
            return looked, found

    def _fetch(self, job: Job, key: str) -> bytes | None:
        try:
            with cached().pipeline(transaction=False) as pipe:
                pipe.get(f"answer:{key}")
                pipe.ttl(f"answer:{key}")
                sealed, left = pipe.execute()
        except RedisError as error:
            log.warning("the cache does not answer; an answer is made", error=str(error))
            return None
        if sealed is not None and left > 0:
            self.shelf.put(key, sealed, seconds=min(left, job.cache_seconds))
        return sealed  # type: ignore[no-any-return]

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


def _key(job: Job, ring: Ring) -> str:
    asked = orjson.dumps(
        [
            job.model,
            job.model_version,
            job.cache_epoch,
            job.prompt,
            job.messages if not job.prompt else (),
            job.n,
            asdict(job.sampling),
        ]
    )
    marker = ring.marker(Place(job.organization, "cache.key", ""))
    return f"{job.organization}:{marker.mark(asked).hex()}"


def _place(job: Job, key: str) -> Place:
    return Place(job.organization, "cache.answer", key)


def _opened(job: Job, key: str, ring: Ring, sealed: bytes) -> Replay | None:
    try:
        found = orjson.loads(ring.unseal(sealed, _place(job, key)))
    except Unreadable:
        return None
    return Replay(tuple(map(_loaded, found)))


def _dumped(delta: Delta) -> dict[str, Any]:
    outcome = delta.outcome
    return {
        "tokens": delta.tokens,
        "text": delta.text,
        "logprobs": [(each.logprob, each.top) for each in delta.logprobs],
        "reason": outcome.reason.value if outcome else FinishReason.stop.value,
        "prompt_tokens": outcome.prompt_tokens if outcome else 0,
        "completion_tokens": outcome.completion_tokens if outcome else len(delta.tokens),
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
    )
    return Delta("", 0, tuple(found["tokens"]), found["text"], outcome, logprobs)
