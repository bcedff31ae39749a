"""One model at work: an engine in its own thread, and a publisher beside it.

The publisher writes a whole step in one script call, so a slow Redis never stops decoding: steps
that piled up meanwhile go out together.
"""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from time import monotonic, sleep
from typing import Protocol
from uuid import UUID

import structlog
from redis.exceptions import RedisError

from inference import jobs, metrics, stream
from inference.catalog.offers import Offer
from inference.engine import Delta, EngineClosed, FinishReason, Outcome, Work
from inference.jobs import Claim, Verdict
from inference.stream import Part
from inference.worker.breaker import Breaker
from inference.worker.choices import Choices, Seeds
from kit.envelope import Cipher, Unreadable
from kit.keepers import KeeperFailed
from tenants import datakeys

_MOST_AT_ONCE = 512
"""Deltas in one script call."""
_CROWD, _GATHER_SECONDS = 16, 0.03
"""From how many streams in a step on the next is waited for, and how long."""

log = structlog.get_logger()


class NotOpened(Exception):
    """A request whose prompt does not open."""


class Held:
    """A request this worker has leased; `gone` is set when it has no more to do with it.

    A request that comes back here is another attempt, and other works in the engine.
    """

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.cipher: Cipher | None = None  # its stream's, once it is opened
        self.gone = Event()
        self.choices = Choices(
            work=f"{claim.job.id}/{claim.attempt}", count=claim.job.n, position=claim.position
        )


class Stats(Protocol):
    """What an engine tells of itself."""

    @property
    def running(self) -> int: ...

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def cached_tokens(self) -> int: ...


class Runs(Protocol):
    """What a station needs of an engine; see `inference.engine.Engine`, or `RemoteEngine`."""

    def submit(self, work: Work) -> None: ...

    def cancel(self, identifier: str, reason: FinishReason = FinishReason.cancelled) -> None: ...

    def run(self, publish: Callable[[Sequence[Delta]], None]) -> None: ...

    def stop(self) -> None: ...

    def stats(self) -> Stats: ...


class Station:
    """Runs claimed requests of one model, as many at once as the engine has slots.

    `spare` more may be taken of organizations that run nothing here: such a one gets its slot from
    the organization that runs most, which only the engine can do, so it must not wait in line.
    `group` are the offers that share the engine: one base model, and what wears adapters on it.
    """

    def __init__(
        self,
        offer: Offer,
        engine: Runs,
        *,
        slots: int,
        sealed: Callable[[UUID], None],
        spare: int = 0,
        group: Sequence[Offer] = (),
    ) -> None:
        self.offer = offer
        self._group = deque(each.name for each in group or (offer,))
        self._adapters = {each.name for each in group if each.adapter is not None}
        self.engine = engine
        self.breaker = Breaker()
        self._sealed = sealed
        self._slots = self._free = slots
        self._spare = spare
        self._lock = Lock()
        self.claims = Lock()
        self._held: dict[str, Held] = {}
        self._steps: SimpleQueue[Sequence[Delta] | None] = SimpleQueue()
        self._threads = [
            Thread(target=self._decode, name=f"engine {offer.name}", daemon=True),
            Thread(target=self._publish, name=f"publisher {offer.name}", daemon=True),
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End both threads; what still runs is not waited for."""
        self.engine.stop()
        self._threads[0].join(10)
        self._steps.put(None)
        self._threads[1].join(10)

    def is_well(self) -> bool:
        """Whether the engine still runs."""
        return self._threads[0].is_alive()

    @property
    def free(self) -> int:
        """How many more requests fit."""
        return max(0, self._free)

    def take_slot(self, *, spare: bool = False) -> bool:
        """Reserve room for one request, if there is any; `spare` reaches beyond the slots."""
        with self._lock:
            if self._free <= (-self._spare if spare else 0) or not self.is_well():
                return False
            self._free -= 1
            return True

    def free_slot(self, count: int = 1) -> None:
        """Give it back."""
        with self._lock:
            self._free += count

    def close(self) -> bool:
        """Take no more if nothing runs; whether that is so."""
        with self._lock:
            if self._free < self._slots:
                return False
            self._free = 0
            return True

    def held(self) -> list[Held]:
        """What is leased now."""
        return list(dict.fromkeys(list(self._held.values())))

    def turns(self, model: str) -> list[str]:
        """The models of this engine, in the order in which one of them may claim: each in turn,
        so that whoever frees a slot of one model does not take it for the same one for ever."""
        if len(self._group) == 1:
            return [model]
        self._group.rotate(-1)
        return list(self._group)

    def serves(self, model: str) -> bool:
        """Whether the engine has it: an adapter that could not be loaded is missing alone."""
        return model in self._group

    def running(self, model: str) -> int:
        """How many of its requests are leased now."""
        return sum(held.claim.job.model == model for held in self.held())

    def organizations(self) -> frozenset[int]:
        """Whose requests are leased now."""
        return frozenset(held.claim.job.organization for held in self.held())

    def hold(self, claim: Claim) -> Held:
        """A leased request is this station's; each of its answers needs a slot."""
        held = Held(claim)
        if claim.job.n > 1:
            self.free_slot(1 - claim.job.n)
        self._held |= dict.fromkeys(held.choices.works, held)
        return held

    def run(self, held: Held) -> None:
        """Carry one leased request to its seal, or until it is no longer this worker's.

        The slot taken for it is free again afterwards.
        """
        try:
            self.begin(held)
            held.gone.wait()
        finally:
            self.free_slot()

    def begin(self, held: Held) -> None:
        """Give a request to the engine."""
        taken = set[str]()
        try:
            _open(held)
            for work in self._works(held):
                self.engine.submit(work)
                taken.add(work.id)
        except EngineClosed:
            requeue([held])
            self.drop(held)
        except RedisError as error:
            log.warning("Redis does not answer; the lease will run out", error=str(error))
            self.drop(held)
        except Exception as error:
            log.exception("the engine did not take a request")
            left = [work for work in held.choices.works if work not in taken]
            self._steps.put([_failed(held, work, error) for work in left])
            self._cancel(held, FinishReason.failed)

    def cancel(self, request: str, reason: str) -> None:
        """Stop a request within a step, if it is here."""
        for held in self.held():
            if str(held.claim.job.id) == request:
                self._cancel(held, FinishReason(reason))

    def drop(self, held: Held) -> None:
        """Forget a request that is another worker's now."""
        self._cancel(held, FinishReason.handed_over)
        self._let_go(held)

    def _cancel(self, held: Held, reason: FinishReason) -> None:
        for work in held.choices.works:
            self.engine.cancel(work, reason)

    def _works(self, held: Held) -> Iterator[Work]:
        """A request as the engine takes it: a work for each answer."""
        job, seeds = held.claim.job, Seeds(held.claim.job.sampling)
        emitted = partial(stream.emitted, job.organization, job.id)
        for choice, work in enumerate(held.choices.works):
            yield Work(
                id=work,
                tenant=str(job.organization),
                prompt=job.prompt,
                sampling=seeds[choice],
                emitted=emitted(choice) if held.claim.position else (),
                priority=job.priority,
                group=str(job.id) if job.n > 1 else "",
                adapter=job.model if job.model in self._adapters else "",
            )

    def _let_go(self, held: Held) -> bool:
        """Forget it; False if that was done already. Its further answers' slots are free again."""
        first, *others = held.choices.works
        if self._held.pop(first, None) is None:
            return False
        for work in others:
            self._held.pop(work, None)
        if others:
            self.free_slot(len(others))
        held.gone.set()
        return True

    def _judge(self, outcome: Outcome) -> None:
        """Note what an end says of the model's health."""
        if outcome.reason == FinishReason.failed:
            self.breaker.failed()
        elif outcome.reason in {FinishReason.stop, FinishReason.length}:
            self.breaker.answered()

    def _decode(self) -> None:
        try:
            self.engine.run(self._steps.put)
        except Exception:
            log.exception("the engine broke; this worker ends", model=self.offer.name)
            self._abandon()

    def _abandon(self) -> None:
        """Let go of everything: the leases run out, and another worker goes on.

        A worker without its engine is of no use; whoever supervises it starts a new one.
        """
        for held in self.held():
            self.drop(held)
        os.kill(os.getpid(), signal.SIGTERM)

    def _publish(self) -> None:
        while (deltas := self._next_deltas()) is not None:
            step = [
                (held, held.choices.merge(delta))
                for delta in deltas
                if (held := self._held.get(delta.id)) is not None and not _given_up(delta)
            ]
            if step:
                for (held, delta), verdict in zip(step, self._write(step), strict=True):
                    self._note(held, delta, verdict)

    def _next_deltas(self) -> list[Delta] | None:
        """A step's, and those of what piled up; None at the end.

        A crowd's steps go out together when they follow within some milliseconds, which halves what
        every token costs on its way out. First tokens and ends wait for nothing.
        """
        first = self._steps.get()
        if first is None:
            return None
        steps, count = [first], len(first)
        until = monotonic() + (_GATHER_SECONDS if count >= _CROWD else 0)
        while count < _MOST_AT_ONCE:
            wait = 0.0 if any(map(_urgent, steps[-1])) else until - monotonic()
            try:
                more = self._steps.get(wait > 0, max(wait, 0) or None)
            except Empty:
                break
            if more is None:
                self._steps.put(None)
                break
            steps.append(more)
            count += len(more)
        return list(first) if len(steps) == 1 else _joined(chain.from_iterable(steps))

    def _write(self, step: list[tuple[Held, Delta]]) -> list[str]:
        rows = [(held.claim.job.id, held.claim.attempt, delta, held.cipher) for held, delta in step]
        pause = 0.05
        while True:
            try:
                with metrics.PUBLISH_SECONDS.time():
                    return stream.append(rows)
            except RedisError as error:
                log.warning("a step could not be written; trying again", error=str(error))
                sleep(pause)
                pause = min(pause * 2, 2.0)

    def _note(self, held: Held, delta: Delta, verdict: str) -> None:
        if verdict == Verdict.LOST:
            self.drop(held)
        elif delta.outcome is not None:
            self._judge(delta.outcome)
            self._sealed(held.claim.job.id)
            self._let_go(held)
        elif verdict != Verdict.OK:
            self._cancel(held, FinishReason(verdict))
        elif isinstance(delta, Part) and delta.end == FinishReason.failed:
            self._cancel(held, FinishReason.failed)


def _open(held: Held) -> None:
    """Learn what was asked, and the cipher of its stream. Raises `NotOpened`."""
    job = held.claim.job
    try:
        ring = datakeys.ring(job.organization, needs=job.sealed_under)
        held.claim = replace(held.claim, job=job.unsealed(ring))
    except (Unreadable, KeeperFailed) as error:
        raise NotOpened("what was asked cannot be opened: its data key is out of reach") from error
    held.cipher = ring.cipher(stream.place(job.organization, job.id))


def _urgent(delta: Delta) -> bool:
    """A first token, or an end."""
    return delta.position == 0 or delta.outcome is not None


def _joined(deltas: Iterable[Delta]) -> list[Delta]:
    """What follows each other in one work, as one delta."""
    found: dict[str, Delta] = {}
    for delta in deltas:
        before = found.get(delta.id)
        if before is None:
            found[delta.id] = delta
        elif not _given_up(delta):
            found[delta.id] = before.then(delta)
    return list(found.values())


def _given_up(delta: Delta) -> bool:
    return delta.outcome is not None and delta.outcome.reason == FinishReason.handed_over


def _failed(held: Held, work: str, error: Exception) -> Delta:
    claim = held.claim
    outcome = Outcome(
        reason=FinishReason.failed,
        prompt_tokens=claim.job.input_tokens,
        cached_tokens=0,
        completion_tokens=claim.position,
        error=str(error)[:400],
    )
    return Delta(id=work, position=claim.position, tokens=(), text="", outcome=outcome)


def requeue(held: Sequence[Held]) -> list[str]:
    """Hand requests over to other workers, tokens kept; the models that have work again."""
    return jobs.give_back((each.claim.job.id, each.claim.attempt) for each in held)
