"""What one sequence's next token depends on, beside the model's logits."""

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from inference.engine.work import Prompt, Sampling


class Matcher(Protocol):
    """Where a sequence stands in its grammar."""

    def take(self, token: int) -> None:
        """Go on by one token. One that the grammar does not allow makes `allowed` raise."""
        ...

    def allowed(self, width: int) -> NDArray[np.bool_]:
        """[width]: which tokens may come next. ValueError if none can be said."""
        ...


class Odds:
    """A sequence's sampling, its place (`position` tokens are known), and what those tokens were.

    The state after `note` of each token is all there is: noting an earlier attempt's tokens
    restores it.
    """

    def __init__(self, sampling: Sampling, prompt: Prompt, matcher: Matcher | None = None) -> None:
        self.sampling = sampling
        self.position = 0
        self.matcher = matcher
        self.penalized = (
            sampling.repetition_penalty != 1
            or sampling.presence_penalty != 0
            or sampling.frequency_penalty != 0
        )
        self.shaped = self.penalized or bool(sampling.logit_bias) or matcher is not None
        self._counts = _Counts(prompt if sampling.repetition_penalty != 1 else ())

    def note(self, token: int) -> None:
        """The next token of the answer is known."""
        self.position += 1
        if self.penalized:
            self._counts.add(token)
        if self.matcher is not None:
            self.matcher.take(token)

    @property
    def seen(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The tokens seen, each once, and how often each stands in the answer."""
        return self._counts.tokens, self._counts.counts

    def bias(self, width: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Tokens of a vocabulary of that width, and what is added to their logits."""
        inside = [(token, bias) for token, bias in self.sampling.logit_bias if token < width]
        return (
            np.array([token for token, _ in inside], np.int64),
            np.array([bias for _, bias in inside], np.float32),
        )


class _Counts:
    """Tokens and their counts, in arrays that grow by doubling."""

    def __init__(self, tokens: Iterable[int]) -> None:
        self._places = {token: place for place, token in enumerate(dict.fromkeys(tokens))}
        self._tokens = np.array([*self._places], np.int64)
        self._counts = np.zeros(len(self._places), np.float32)

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Those seen."""
        return self._tokens[: len(self._places)]

    @property
    def counts(self) -> NDArray[np.float32]:
        """How often each was added."""
        return self._counts[: len(self._places)]

    def add(self, token: int) -> None:
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.zeros(max(place, 64), np.int64)])
            self._counts = np.concatenate([self._counts, np.zeros(max(place, 64), np.float32)])
        self._tokens[place] = token
        self._counts[place] += 1
