"""Several answers to one request: works of their own in the engine, one stream outside.

The stream counts the tokens of all of them by position, so that leases, fencing, resuming and the
seal know one number still; each entry says whose tokens it holds. One answer is the plain case.
"""

from dataclasses import dataclass, replace

from inference.engine import Delta, FinishReason, Outcome, Sampling
from inference.stream import Part

_STEP = 0xD1B54A32D192ED03
_GRAVEST = (
    FinishReason.failed,
    FinishReason.cancelled,
    FinishReason.timeout,
    FinishReason.length,
    FinishReason.stop,
)


class Choices:
    """The answers of one request, and how far its stream is."""

    def __init__(self, *, work: str, count: int, position: int) -> None:
        self.works = (work,) if count == 1 else tuple(f"{work}/{n}" for n in range(count))
        self.each = count
        """How many of them answer one prompt."""
        self._position = position
        self._ends: dict[str, Outcome] = {}

    def merge(self, delta: Delta) -> Delta:
        """A delta of one of the works, in its place in the stream; the last one's end is all's."""
        if len(self.works) == 1:
            return delta
        if delta.outcome is not None:
            self._ends[delta.id] = delta.outcome
        start, self._position = self._position, self._position + len(delta.tokens)
        return Part(
            id=delta.id,
            position=start,
            tokens=delta.tokens,
            text=delta.text,
            outcome=self._whole(),
            logprobs=delta.logprobs,
            choice=self.works.index(delta.id),
            end=delta.outcome.reason.value if delta.outcome is not None else "",
        )

    def _whole(self) -> Outcome | None:
        """The end of all, once each has its own: the gravest. Each prompt was read once."""
        if len(self._ends) < len(self.works):
            return None
        ends = [self._ends[work] for work in self.works]
        gravest = min(ends, key=lambda end: _GRAVEST.index(end.reason))
        prompts = [ends[first : first + self.each] for first in range(0, len(ends), self.each)]
        return replace(
            gravest,
            prompt_tokens=sum(answers[0].prompt_tokens for answers in prompts),
            cached_tokens=sum(min(end.cached_tokens for end in answers) for answers in prompts),
            completion_tokens=self._position,
            reasoning_tokens=sum(end.reasoning_tokens for end in ends),
        )


@dataclass(frozen=True, slots=True)
class Seeds:
    """A seed for each answer to a prompt: the request's own for the first, others that follow from
    it."""

    sampling: Sampling

    def __getitem__(self, choice: int) -> Sampling:
        seed = (self.sampling.seed + choice * _STEP) % (1 << 63) if choice else self.sampling.seed
        return replace(self.sampling, seed=seed)
