"""What comes out of the engine: a step's new tokens of one request, and how it ended."""

from dataclasses import dataclass, replace
from enum import StrEnum


class FinishReason(StrEnum):
    """Why a request ended."""

    stop = "stop"
    length = "length"
    cancelled = "cancelled"
    failed = "failed"
    handed_over = "handed_over"
    timeout = "timeout"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a request, said once.

    `completion_tokens` counts every token sampled or replayed: the end-of-text token and those of
    a stop string included, so that it equals the tokens of all deltas of all attempts.
    `cached_tokens` are the prompt's tokens that needed no computing, `reasoning_tokens` those of
    the completion in which the model thought (`inference.engine.thought`).
    """

    reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    error: str = ""
    cache: str = ""
    """What had the answer, where no model made it."""
    reasoning_tokens: int = 0
    answer: str = ""
    """What it is found by in a cache, where it may be found there."""


@dataclass(frozen=True, slots=True)
class Logprob:
    """A token's log-probability by the model, and the likeliest tokens' (token, log-probability)
    in its place, likeliest first."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """One step of one request, or some that follow each other.

    `position` is the index, in the whole completion, of the first of `tokens`. `text` may be empty
    though there are tokens: half a character, or what may yet become a stop string, is held back.
    `logprobs` has one for each of `tokens` if the sampling asks for them.
    """

    id: str
    position: int
    tokens: tuple[int, ...]
    text: str
    outcome: Outcome | None = None
    logprobs: tuple[Logprob, ...] = ()

    def then(self, other: "Delta") -> "Delta":
        """This and what followed it, in one."""
        return replace(
            other,
            position=self.position,
            tokens=self.tokens + other.tokens,
            text=self.text + other.text,
            logprobs=self.logprobs + other.logprobs,
        )
