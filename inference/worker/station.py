"""One model at work: an engine in its own thread; a publisher, a claimer, a compactor beside it."""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Protocol
from uuid import UUID

import structlog
from django.db import InterfaceError, OperationalError
from redis.exceptions import RedisError

from inference.catalog.offers import Offer
from inference.engine import Delta, EngineClosed, FinishReason, Outcome, Text, Work
from inference.jobs import Claim, Verdict
from inference.stream import Part
from inference.worker.breaker import Breaker
from inference.worker.claimer import Claimer
from inference.worker.compactor import Compactor
from inference.worker.editions import edition
from inference.worker.held import Held, requeue
from inference.worker.publisher import Publisher
from inference.worker.trials import Original
from kit.postgres import patience

_PATIENCE = 10.0
"""Seconds for PostgreSQL to say under which key a prompt was sealed, where that is not known."""

log = structlog.get_logger()


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

    def unbegun(self) -> frozenset[str]: ...


class Seeks(Protocol):
    """What finds answers to questions that mean the same; see `inference.worker.meanings`."""

    def seek(
        self,
        held: Held,
        *,
        edition: str,
        text: Text,
        then: Callable[[Held, Sequence[Delta]], None],
    ) -> None: ...


class Station:
    """Runs claimed requests of one model, as many at once as the engine has slots.

    `spare` more may be taken of organizations that run nothing here: such a one gets its slot from
    the organization that runs most, which only the engine can do, so it must not wait in line.
    `vacant` is called, by a thread of its own, when a full station has room again.
    `group` are the offers that share the engine: one base model, and what wears adapters on it.
    """

    def __init__(
        self,
        offer: Offer,
        engine: Runs,
        *,
        slots: int,
        sealed: Callable[[UUID], None],
        vacant: Callable[[], object],
        spare: int = 0,
        group: Sequence[Offer] = (),
        shadowed: Callable[[Original], None] | None = None,
        meanings: Seeks | None = None,
    ) -> None:
        self.offer = offer
        self._group = deque(each.name for each in group or (offer,))
        self._editions = {each.name: edition(each) for each in group or (offer,)}
        self.adapters = {each.name for each in group if each.adapter is not None}
        self.engine = engine
        self.breaker = Breaker()
        self._sealed = sealed
        self._shadowed = shadowed
        self._meanings = meanings
        self._hearers: dict[str, Callable[[Delta], None]] = {}
        self._is_draft = not any(each.published for each in group or (offer,))
        self.slots = self._free = slots
        self._spare = spare
        self._lock = Lock()
        self.claims = Lock()
        self._held: dict[str, Held] = {}
        self._returned: SimpleQueue[Held] = SimpleQueue()
        self._publisher = Publisher(offer.name, held=self._held, note=self._note)
        self._thread = Thread(target=self._decode, name=f"engine {offer.name}", daemon=True)
        self._claimer = Claimer(offer.name, vacant)
        self._compactor = Compactor(offer.name)

    def start(self) -> None:
        """Begin."""
        self._thread.start()
        self._publisher.start()
        self._compactor.start()
        self._claimer.start()

    def stop(self) -> None:
        """End its threads; what still runs is not waited for."""
        self.engine.stop()
        self._thread.join(10)
        self._publisher.stop()
        self._compactor.stop()
        self._claimer.stop()

    def is_well(self) -> bool:
        """Whether the engine still runs."""
        return self._thread.is_alive()

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

    def free_slot(self, count: int = 1) -> bool:
        """Give it back; whether there was no other."""
        with self._lock:
            was_full = self._free <= 0
            self._free += count
        return was_full

    def close(self) -> bool:
        """Take no more if nothing runs; whether that is so."""
        with self._lock:
            if self._free < self.slots:
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
        """A leased request is this station's; each of its answers takes a slot, as far as there are
        any. The others wait inside the engine, and keep nobody else out of it."""
        held = Held(claim, edition=self._editions.get(claim.job.model, ""))
        with self._lock:
            more = min(claim.job.n - 1, max(0, self._free))
            self._free -= more
        held.slots += more
        self._held |= dict.fromkeys(held.choices.works, held)
        return held

    def begin(self, held: Held) -> None:
        """Give a leased request to the engine; its slot is free again after its seal."""
        with self._beginning(held) as taken:
            with patience(_PATIENCE):
                held.open()
            if found := held.replay():
                self._publisher.put(found)
            elif self._meanings is not None and held.entry and held.claim.job.meant:
                edition = self._editions.get(held.claim.job.model, "")
                text = self.offer.text
                self._meanings.seek(held, edition=edition, text=text, then=self._sought)
            else:
                self._run(held, taken)

    def _sought(self, held: Held, found: Sequence[Delta]) -> None:
        """What means the same has been looked for: give what was found, or have it answered."""
        if held.gone.is_set():
            return
        with self._beginning(held) as taken:
            if found:
                self._publisher.put(found)
            else:
                self._run(held, taken)

    def _run(self, held: Held, taken: set[str]) -> None:
        if held.original is not None:
            self._hearers[held.choices.works[0]] = held.original.answer.note
        for work in self._works(held):
            self.engine.submit(work)
            taken.add(work.id)

    @contextmanager
    def _beginning(self, held: Held) -> Iterator[set[str]]:
        """What becomes of a request that cannot begin here; the works that the engine took."""
        taken = set[str]()
        try:
            yield taken
        except EngineClosed:
            requeue([held])
            self.drop(held)
        except (RedisError, OperationalError, InterfaceError) as error:
            log.warning("what a request needs does not answer; it goes back", error=str(error))
            self._returned.put(held)
            self.drop(held)
        except Exception as error:
            log.exception("the engine did not take a request")
            left = [work for work in held.choices.works if work not in taken]
            self._publisher.put([held.failed(work, error) for work in left])
            self._cancel(held, FinishReason.failed)

    def beside(self, work: Work, hear: Callable[[Delta], None]) -> None:
        """Run a work that is no request's, in a slot that was taken for it; the engine's thread
        tells `hear` of its deltas. Raises what the engine raises. Then `leave_beside`."""
        self._hearers[work.id] = hear
        self.engine.submit(work)

    def leave_beside(self, work: str) -> None:
        """Hear of it no more, and free its slot."""
        self._hearers.pop(work, None)
        if self.free_slot():
            self._claimer.wake()

    def _put(self, step: Sequence[Delta]) -> None:
        """A step of the engine's: to be heard at once by who listens, and written soon. The
        publisher passes over what is no request's."""
        if self._hearers:
            for delta in step:
                if (hear := self._hearers.get(delta.id)) is not None:
                    hear(delta)
        self._publisher.put(step)

    def hand_back(self) -> list[str]:
        """Put what could not begin back in line; the model of each. Raises what Redis raises, then
        they wait for the next time: a lease that runs out would be taken for a crash."""
        back: list[Held] = []
        with suppress(Empty):
            while True:
                back.append(self._returned.get_nowait())
        try:
            return requeue(back)
        except RedisError:
            for held in back:
                self._returned.put(held)
            raise

    def unbegun(self) -> frozenset[str]:
        """The works of which the engine has run nothing yet."""
        return self.engine.unbegun()

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
        return held.asked(self.adapters)

    def _let_go(self, held: Held) -> bool:
        """Forget it, free its slots and have what waits claimed; False if that was done already."""
        first, *others = held.choices.works
        if self._held.pop(first, None) is None:
            return False
        for work in others:
            self._held.pop(work, None)
        self._hearers.pop(first, None)
        held.gone.set()
        if self.free_slot(held.slots) or held.claim.suspect:
            self._claimer.wake()
        return True

    def _judge(self, outcome: Outcome) -> None:
        """Note what an end says of the model's health; a cache's says nothing."""
        if outcome.cache:
            return
        if outcome.reason == FinishReason.failed:
            self.breaker.failed()
        elif outcome.reason in {FinishReason.stop, FinishReason.length}:
            self.breaker.answered()

    def _keep(self, held: Held) -> None:
        """Have its answer given again; should that go wrong, nobody waits for it."""
        try:
            held.keep()
        except Exception:
            log.exception("an answer was not kept for others like it")

    def _decode(self) -> None:
        try:
            self.engine.run(self._put)
        except Exception:
            if self._is_draft:
                log.exception("a shadow's engine broke", model=self.offer.name)
                return  # nobody's requests are in it, and others' need the worker
            log.exception("the engine broke; this worker ends", model=self.offer.name)
            self._abandon()

    def _abandon(self) -> None:
        """Let go of everything: the leases run out, and another worker goes on.

        A worker without its engine is of no use; whoever supervises it starts a new one. And what
        broke it may have been one of these requests: nothing goes back as if it had been none.
        """
        for held in self.held():
            self.drop(held)
        os.kill(os.getpid(), signal.SIGTERM)

    def _note(self, held: Held, delta: Delta, verdict: str) -> None:
        held.entries += 1
        if verdict == Verdict.LOST:
            self.drop(held)
        elif delta.outcome is not None:
            self._judge(delta.outcome)
            if verdict == Verdict.OK:
                self._keep(held)
                self._compactor.put(held)
                if held.original is not None and self._shadowed is not None:
                    self._shadowed(held.original)
            self._sealed(held.claim.job.id)
            self._let_go(held)
        elif verdict != Verdict.OK:
            self._cancel(held, FinishReason(verdict))
        elif held.claim.suspect and delta.tokens:
            # It is none any more: this worker may have the next one.
            held.claim = replace(held.claim, suspect=False)
            self._claimer.wake()
        elif isinstance(delta, Part) and delta.end == FinishReason.failed:
            self._cancel(held, FinishReason.failed)
