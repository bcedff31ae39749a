"""A request that this worker has leased."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from functools import partial
from threading import Event

from inference import jobs, stream
from inference.engine import Delta, FinishReason, Outcome, Work
from inference.jobs import Claim
from inference.worker.choices import Choices, Seeds
from kit.envelope import Cipher, Unreadable
from kit.keepers import KeeperFailed
from tenants import datakeys


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
        self.cipher = ring.cipher(stream.place(job.organization, job.id))

    def asked(self, adapters: Container[str]) -> Iterator[Work]:
        """The request as the engine takes it: a work for each answer. `adapters` are models that
        wear one."""
        job, seeds = self.claim.job, Seeds(self.claim.job.sampling)
        emitted = partial(stream.emitted, job.organization, job.id)
        for choice, work in enumerate(self.choices.works):
            yield Work(
                id=work,
                tenant=str(job.organization),
                prompt=job.prompt,
                sampling=seeds[choice],
                emitted=emitted(choice) if self.claim.position else (),
                priority=job.priority,
                group=str(job.id) if job.n > 1 else "",
                adapter=job.model if job.model in adapters else "",
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


def requeue(held: Sequence[Held]) -> list[str]:
    """Hand requests over to other workers, tokens kept; the model of each."""
    return jobs.give_back((each.claim.job.id, each.claim.attempt) for each in held)
