"""A model that another server runs: an event loop, in an engine's place, carries its streams."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any
from uuid import UUID

import structlog

from inference import metrics
from inference.catalog.offers import Offer, Remote
from inference.engine import Delta, EngineClosed, FinishReason, Outcome, Text, Work
from inference.remote import body
from inference.worker import openai
from inference.worker.breaker import Breaker
from inference.worker.choices import Seeds
from inference.worker.held import Held
from inference.worker.openai import Kind, RemoteFailed
from inference.worker.station import Seeks, Station
from inference.worker.tally import Tally

LONGEST_SECONDS = 1800.0
"""After so long an answer is taken for endless, and fails."""

log = structlog.get_logger()

Publish = Callable[[Sequence[Delta]], None]


class CutOff(Exception):
    """Another server's answer cannot be resumed: its rest would be another answer's."""


@dataclass(frozen=True, slots=True)
class Call(Work):
    """A work, and what is sent for it."""

    body: Mapping[str, Any] | None = None
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class RemoteStats:
    """Now running; the others count since the start."""

    running: int
    prompt_tokens: int
    cached_tokens: int


class RemoteEngine:
    """What `inference.engine.Engine` is for a model of ours; see there.

    `submit` and `cancel` may be called from any thread; `run` owns the calling thread.
    """

    def __init__(self, *, name: str, remote: Remote, text: Text | None) -> None:
        self.breaker = Breaker()
        self._name = name
        self._remote = remote
        self._text = text
        self._lock = Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._early: list[Callable[[], None]] = []
        self._closed = False
        self._stopping = asyncio.Event()
        self._calls: dict[str, tuple[asyncio.Task[Delta], Tally]] = {}
        self._reasons: dict[str, FinishReason] = {}
        self._prompt_tokens = self._cached_tokens = 0

    def submit(self, work: Work) -> None:
        """Begin a call. Raises EngineClosed."""
        if not isinstance(work, Call):
            raise TypeError(f"work {work.id} is no call of another server")
        if self._closed:
            raise EngineClosed("the worker is stopping")
        self._do(lambda: self._begin(work))

    def cancel(self, identifier: str, reason: FinishReason = FinishReason.cancelled) -> None:
        """End a call; the connection is closed, so the server stops as well."""
        self._do(lambda: self._cancel(identifier, reason))

    def run(self, publish: Publish) -> None:
        """Carry calls until `stop`; what is left is handed over."""
        asyncio.run(self._serve(publish))

    def stop(self) -> None:
        """Take no more; `run` ends."""
        self._closed = True
        self._do(self._stopping.set)

    def unbegun(self) -> frozenset[str]:
        """See `Engine`; another server begins at once."""
        return frozenset()

    def stats(self) -> RemoteStats:
        """What runs, and what was counted."""
        return RemoteStats(len(self._calls), self._prompt_tokens, self._cached_tokens)

    def _do(self, order: Callable[[], None]) -> None:
        with self._lock:
            if self._loop is None:
                self._early.append(order)
            else:
                self._loop.call_soon_threadsafe(order)

    async def _serve(self, publish: Publish) -> None:
        self._publish = publish
        async with openai.session() as self._client:
            with self._lock:
                self._loop = asyncio.get_running_loop()
                early, self._early = self._early, []
            try:
                for order in early:
                    order()
                await self._stopping.wait()
                for identifier in [*self._calls]:
                    self._cancel(identifier, FinishReason.handed_over)
                while self._calls:
                    await asyncio.wait([task for task, _ in self._calls.values()])
            finally:
                with self._lock:
                    self._loop = None

    def _begin(self, call: Call) -> None:
        tally = Tally(
            call.id,
            text=self._text,
            prompt_tokens=call.prompt_tokens,
            most=call.sampling.max_tokens,
        )
        task = asyncio.create_task(self._carry(call, tally))
        self._calls[call.id] = task, tally
        task.add_done_callback(lambda done: self._end(call.id, done))

    def _cancel(self, identifier: str, reason: FinishReason) -> None:
        if identifier in self._calls:
            self._reasons.setdefault(identifier, reason)
            self._calls[identifier][0].cancel()

    async def _carry(self, call: Call, tally: Tally) -> Delta:
        left = LONGEST_SECONDS if call.deadline is None else call.deadline - time.monotonic()
        try:
            async with asyncio.timeout(min(left, LONGEST_SECONDS)):
                finish = await self._read(call, tally)
        except TimeoutError:
            if call.deadline is not None:
                return tally.end(FinishReason.timeout)
            self.breaker.failed()
            return tally.end(FinishReason.failed, "the model's server did not come to an end")
        except RemoteFailed as failure:
            metrics.REMOTE_FAILURES.labels(self._name, failure.kind.value).inc()
            if failure.kind != Kind.refused:
                self.breaker.failed()
            log.warning("a remote model failed", model=self._name, work=call.id, error=str(failure))
            return tally.end(FinishReason.failed, str(failure))
        self.breaker.answered()
        self._reconcile(call, tally)
        return tally.end(FinishReason.length if finish == "length" else FinishReason.stop)

    async def _read(self, call: Call, tally: Tally) -> str | None:
        """Publish the answer as it comes; how the server says that it ended.

        What a server tells apart as thinking is delivered as a model here delivers it: in front,
        between think tags; left out where the answer has to be JSON as a whole.
        """
        finish, thinks, wants_json = None, False, "response_format" in (call.body or {})
        async for chunk in openai.stream(
            self._client,
            self._remote,
            call.body or {},
            label=call.id,
            retried=lambda kind: metrics.REMOTE_RETRIES.labels(self._name, kind.value).inc(),
        ):
            thought = "" if wants_json else chunk.thought
            text = thought if thinks or not thought else f"<think>\n{thought}"
            thinks = thinks or bool(thought)
            if chunk.text:
                text += f"\n</think>\n\n{chunk.text}" if thinks else chunk.text
                thinks = False
            if text and (delta := tally.piece(text)):
                self._publish([delta])
            finish = chunk.finish or finish
            tally.usage = chunk.usage or tally.usage
        return finish

    def _reconcile(self, call: Call, tally: Tally) -> None:
        self._prompt_tokens += tally.prompt_tokens
        self._cached_tokens += tally.usage.cached_tokens if tally.usage else 0
        for each in tally.mismatches():
            metrics.REMOTE_MISMATCHES.labels(self._name, each.kind).inc()
            log.warning(
                "a remote server counts otherwise than we do; ours is billed",
                model=self._name,
                work=call.id,
                kind=each.kind,
                ours=each.ours,
                theirs=each.theirs,
            )

    def _end(self, identifier: str, done: asyncio.Task[Delta]) -> None:
        """Publish a call's end, whatever became of its task."""
        _, tally = self._calls.pop(identifier)
        reason = self._reasons.pop(identifier, FinishReason.handed_over)
        if done.cancelled():
            self._publish([tally.end(reason)])
        elif error := done.exception():
            log.error("a call broke", model=self._name, work=identifier, exc_info=error)
            self._publish(
                [tally.end(FinishReason.failed, f"{type(error).__name__}: {error}"[:400])]
            )
        else:
            self._publish([done.result()])


class RemoteStation(Station):
    """Carries claimed requests of one remote model, thousands at once."""

    def __init__(
        self,
        offer: Offer,
        *,
        slots: int,
        sealed: Callable[[UUID], None],
        vacant: Callable[[], object],
        meanings: Seeks | None = None,
    ) -> None:
        if offer.remote is None:
            raise ValueError(f"{offer.name} is no remote model")
        self._remote = offer.remote
        text = offer.text if offer.remote.counted else None
        engine = RemoteEngine(name=offer.name, remote=offer.remote, text=text)
        super().__init__(
            offer, engine, slots=slots, sealed=sealed, vacant=vacant, meanings=meanings
        )
        self.breaker = engine.breaker

    def _works(self, held: Held) -> Iterator[Work]:
        """A call for each answer."""
        job, position = held.claim.job, held.claim.position
        if position:
            raise CutOff(
                f"the worker stopped after {position} tokens, and a remote model's answer "
                "cannot be resumed"
            )
        seeds = Seeds(job.sampling)
        for choice, work in enumerate(held.choices.works):
            yield Call(
                id=work,
                tenant=str(job.organization),
                prompt=(),
                sampling=seeds[choice],
                deadline=held.deadline,
                body=body(replace(job, sampling=seeds[choice]), model=self._remote.model),
                prompt_tokens=job.input_tokens,
            )

    def _judge(self, outcome: Outcome) -> None:
        """See Station. The engine has, knowing why a call failed."""
