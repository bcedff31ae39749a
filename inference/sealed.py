"""Requests that delivered all they ever will, and wait for their books: read, taken, put off."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

from billing.models import Meter, apart
from inference.engine import FinishReason
from inference.jobs import KEPT_SECONDS, SEALED, Job, TurnedAway
from kit.redis import pipeline, state

_STATES = {
    "failed": "failed",
    TurnedAway.SHED: "failed",
    TurnedAway.UNSERVED: "failed",
    "cancelled": "cancelled",
}
MOST_TRIES = 8
"""Bookings of a request, over some three minutes, before it is given up."""
_LONGEST_PAUSE = 60
"""Seconds between two of them."""
_TAKEN_MS = 2_000
"""Shorter than until the request is overdue, should who took it die."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A request that delivered all it ever will."""

    job: Job
    reason: str
    error: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    attempts: int
    created_at: datetime
    started_at: datetime | None
    first_token_at: datetime | None
    sealed_at: datetime
    credit_epoch: int
    cache: str
    """What had its answer, where no model made it."""
    asked: bytes
    """The messages, sealed for the history; empty where they are not kept."""
    kept_seconds: int = KEPT_SECONDS
    """How long its answer can be read."""
    frame: bytes = b""
    """Of a response that is stored, sealed."""
    answer: str = ""
    """What a cache finds its answer by, where one may."""
    dead: bytes | None = None
    """What was asked, sealed, of one that is to be set aside."""

    @property
    def state(self) -> str:
        """finished, cancelled or failed."""
        return _STATES.get(self.reason, "finished")

    @property
    def units(self) -> dict[str, int]:
        """What was used, by meter."""
        if self.cache:
            return {Meter.RESPONSE_CACHE_TOKENS.value: self.prompt_tokens + self.completion_tokens}
        return apart(
            self.job.units(read=self.prompt_tokens, written=self.completion_tokens),
            {
                Meter.CACHED_INPUT_TOKENS: min(self.cached_tokens, self.prompt_tokens),
                Meter.REASONING_TOKENS: self.reasoning_tokens,
            },
        )

    @property
    def is_free(self) -> bool:
        """Failures cost nothing, nor does what was stopped, or had no time, before its first
        token."""
        stopped = self.state == "cancelled" or self.reason == FinishReason.timeout
        return self.state == "failed" or (stopped and self.completion_tokens == 0)


def sealed_of(requests: Sequence[UUID]) -> list[Sealed]:
    """Those of them that are; whoever has ended, or is not known any more, waits for no books."""

    def reads(pipe: Any) -> None:
        for request in requests:
            pipe.hgetall(f"job:{request}")

    found = dict(zip(requests, pipeline(reads), strict=True))
    over = [str(each) for each, job in found.items() if job.get(b"state", b"done") == b"done"]
    if over:
        state().zrem(SEALED, *over)
    return [_sealed(job) for job in found.values() if job.get(b"state") == b"sealed"]


def _sealed(fields: dict[bytes, bytes]) -> Sealed:
    job = Job.load(fields[b"spec"])
    started = b"started" in fields
    return Sealed(
        job=job,
        reason=fields[b"reason"].decode(),
        error=fields[b"error"].decode(),
        prompt_tokens=int(fields.get(b"prompt_tokens", job.input_tokens if started else 0)),
        cached_tokens=int(fields.get(b"cached_tokens", 0)),
        completion_tokens=int(fields[b"position"]),
        reasoning_tokens=min(int(fields.get(b"reasoning_tokens", 0)), int(fields[b"position"])),
        attempts=int(fields[b"attempt"]),
        created_at=_moment(fields[b"created"]),
        started_at=_moment(fields[b"started"]) if started else None,
        first_token_at=_moment(fields[b"first"]) if b"first" in fields else None,
        sealed_at=_moment(fields[b"sealed"]),
        credit_epoch=int(fields.get(b"credit_epoch", 0)),
        cache=fields.get(b"cache", b"").decode(),
        asked=fields.get(b"asked", b""),
        kept_seconds=int(fields.get(b"keep_stream", KEPT_SECONDS)),
        frame=fields.get(b"frame", b""),
        answer=fields.get(b"answer", b"").decode(),
        dead=fields.get(b"sealed_prompt", b"") if b"dead" in fields else None,
    )


def take(request: UUID) -> bool:
    """Whether this process is to book a request that all have been told of: one of them is."""
    return bool(state().set(f"finishing:{request}", 1, nx=True, px=_TAKEN_MS))


def overdue(*, older_than_ms: int, most: int) -> list[UUID]:
    """Sealed requests whose finisher seems to have died."""
    seconds, micros = state().time()
    border = seconds * 1000 + micros // 1000 - older_than_ms
    found = cast("list[bytes]", state().zrangebyscore(SEALED, "-inf", border, start=0, num=most))
    return [UUID(each.decode()) for each in found]


def put_off(request: UUID) -> bool:
    """One that could not be booked, though the database answers: others go first, and it is tried
    again later and later. False once that was often enough; see `give_up`."""
    tries = state().hincrby(f"job:{request}", "unbooked", 1)
    seconds, micros = state().time()
    later = min(2**tries, _LONGEST_PAUSE) * 1000
    state().zadd(SEALED, {str(request): seconds * 1000 + micros // 1000 + later}, xx=True)
    return tries < MOST_TRIES


def _moment(milliseconds: bytes) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
