"""A request that this worker has leased."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from functools import partial
from threading import Event
from time import monotonic

from inference import jobs, stream
from inference.engine import Delta, FinishReason, Outcome, Work
from inference.jobs import Claim, Job
from inference.worker.choices import Choices, Seeds
from inference.worker.replay import Replay
from inference.worker.replays import entry_of, replays
from inference.worker.trials import Answering, Original, drawn
from kit.envelope import Cipher, Ring, Unreadable
from kit.keepers import KeeperFailed
from tenants import datakeys
from tenants.answers import Meant

_FIRST = -1


class NotOpened(Exception):
    """A request whose prompt does not open."""


class Held:
    """A request this worker has leased; `gone` is set when it has no more to do with it.

    A request that comes back here is another attempt, and other works in the engine.
    """

    def __init__(self, claim: Claim, *, edition: str = "") -> None:
        self.claim = claim
        self._edition = edition
        self.deadline = None if claim.left is None else monotonic() + claim.left
        """When its time is over, on the clock of `time.monotonic`; None: never."""
        self.name = str(claim.job.id)
        self.cipher: Cipher | None = None  # its stream's, once it is opened
        self.gone = Event()
        self.ring: Ring | None = None
        self.entry = ""
        """What its answer is found by, where it may be found or kept."""
        self.meant: Meant | None = None
        """What its question means, where answers to the same in other words are wanted."""
        self._made: dict[str, list[Delta]] = {}  # its answer so far, where it is to be kept
        self.choices = Choices(
            work=f"{self.name}/{claim.attempt}", count=claim.job.n, position=claim.position
        )
        self.entries = claim.position
        """Of its stream, at most."""
        self.original: Original | None = None  # for a shadow, once it is known that one has it
        self.slots = 1
        """How many of the engine's it is counted with."""

    def is_begun(self, unbegun: frozenset[str]) -> bool:
        """Whether its engine, which has begun nothing of these works, has begun it."""
        return not unbegun.issuperset(self.choices.works)

    @property
    def urgency(self) -> int:
        """In the engine: a suspect goes before all, so that a death there is soon known for its."""
        return _FIRST if self.claim.suspect else self.claim.job.priority

    def open(self) -> None:
        """Learn what was asked, and the cipher of its stream. Raises `NotOpened`."""
        job = self.claim.job
        try:
            ring = datakeys.ring(job.organization, needs=job.sealed_under)
            self.claim = replace(self.claim, job=job.unsealed(ring))
        except (Unreadable, KeeperFailed) as error:
            raise NotOpened(
                "what was asked cannot be opened: its data key is out of reach"
            ) from error
        self.ring = ring
        self.choices.each = max(1, job.n // max(1, len(self.claim.job.lengths)))
        if self.claim.job.caching and not self.claim.position:
            self.entry = entry_of(self.claim.job, ring, self._edition)
        self.cipher = ring.cipher(stream.place(job.organization, job.id))
        if self.claim.attempt == 1 and (shadow := drawn(self.claim.job)):
            self.original = Original(self.claim.job, ring, shadow, Answering())

    def replay(self) -> list[Delta]:
        """Its answer, if a cache has it: the deltas of all its works."""
        if not self.entry or self.ring is None:
            return []
        return self.given(replays.find(self.claim.job, self.ring, self.entry))

    def given(self, found: Replay | None) -> list[Delta]:
        """What was found as its answer."""
        if found is None:
            return []
        self.entry = found.entry
        return found.of(self.choices.works, natural=self.claim.job.cache_natural)

    def note(self, delta: Delta) -> None:
        """A delta of one of its works, as the engine made it."""
        if not self.entry:
            return
        self._made.setdefault(delta.id, []).append(delta)

    def keep(self) -> None:
        """Have its answer given again, if it may be: it is whole, and was made here."""
        made = [self._made[work] for work in self.choices.works if work in self._made]
        ends = [deltas[-1].outcome for deltas in made if deltas[-1].outcome is not None]
        whole = len(ends) == len(self.choices.works) and all(
            end.reason in (FinishReason.stop, FinishReason.length) and not end.cache for end in ends
        )
        if whole and self.entry and self.ring is not None:
            replays.keep(self.claim.job, self.ring, self.entry, made, self.meant)
        self._made.clear()

    def merged(self, delta: Delta) -> Delta:
        """A delta of one of its works, as its stream has it."""
        delta = self.choices.merge(delta)
        if not self.entry or delta.outcome is None:
            return delta
        return replace(delta, outcome=replace(delta.outcome, answer=self.entry))

    def asked(self, adapters: Container[str]) -> Iterator[Work]:
        """The request as the engine takes it: a work for each answer. `adapters` are models that
        wear one."""
        job, seeds = self.claim.job, Seeds(self.claim.job.sampling)
        emitted = partial(stream.emitted, job.organization, job.id)
        each = self.choices.each
        for choice, work in enumerate(self.choices.works):
            which, answer = divmod(choice, each)
            yield Work(
                id=work,
                tenant=str(job.organization),
                prompt=_prompt(job, which),
                sampling=seeds[answer],
                emitted=emitted(choice) if self.claim.position else (),
                priority=self.urgency,
                group=f"{job.id}/{which}" if each > 1 else "",
                adapter=job.model if job.model in adapters else "",
                deadline=self.deadline,
            )

    def failed(self, work: str, error: Exception) -> Delta:
        """The end of an answer that the engine did not take."""
        claim = self.claim
        outcome = Outcome(
            reason=FinishReason.failed,
            prompt_tokens=claim.job.input_tokens,
            cached_tokens=0,
            completion_tokens=claim.position,
            error=str(error)[:400],
        )
        return Delta(id=work, position=claim.position, tokens=(), text="", outcome=outcome)


def _prompt(job: Job, which: int) -> tuple[int, ...]:
    """One of a request's prompts, where it has several."""
    if not job.lengths:
        return job.prompt
    start = sum(job.lengths[:which])
    return job.prompt[start : start + job.lengths[which]]


def requeue(held: Sequence[Held]) -> list[str]:
    """Hand requests over to other workers, tokens kept; the model of each."""
    return jobs.give_back((each.claim.job.id, each.claim.attempt) for each in held)
