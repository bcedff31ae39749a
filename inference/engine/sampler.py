"""From logits to tokens, many rows at once; a row's token depends on nothing outside its row.

Every operation is elementwise, or sums along a row in an order that the number of rows does not
change: that is what keeps batched equal to solo, bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.engine.delta import Logprob
from inference.engine.native.drawing import Choice, Some, draw_tokens
from inference.engine.native.library import load_library
from inference.engine.odds import Odds
from inference.engine.runner import Logits

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_COLDEST = 1e-4
"""A lower temperature changes nothing any more."""

Rows = NDArray[np.float32]
Tokens = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token, and its log-probabilities where its sampling asks for them."""

    token: int
    logprob: Logprob | None = None


class Sampler:
    """Draws tokens. Raises NoKernels where what draws them cannot be compiled."""

    def __init__(self) -> None:
        load_library()

    def sample(self, logits: Logits, odds: Sequence[Odds]) -> list[Drawn | None]:
        """One token a row; None for a row whose logits are not numbers or allow no token.

        `logits` is [rows, vocabulary] and stays as it is; `odds` are the rows'. The seed and the
        position are all the randomness there is, so a token comes out the same whatever shares
        the batch, and in a later attempt.
        """
        drawing = [n for n, one in enumerate(odds) if _draws(one)]
        plain = [n for n, one in enumerate(odds) if not _draws(one)]
        tokens = np.empty(len(odds), np.int64)
        sane = np.empty(len(odds), np.bool_)
        if plain:
            tokens[plain] = (logits[plain] if drawing else logits).argmax(axis=-1)
            sane[plain] = np.isfinite(logits[plain, tokens[plain]])
        if drawing:
            shapes = [_Shape(logits[n], odds[n]) for n in drawing]
            tokens[drawing] = draw_tokens([one.choice for one in shapes], logits.shape[1])
            sane[drawing] = tokens[drawing] >= 0
        reported = [n for n, one in enumerate(odds) if one.sampling.logprobs is not None]
        logprobs = dict(zip(reported, _logprobs(logits, odds, reported, tokens), strict=True))
        return [
            Drawn(token, logprobs.get(n)) if good else None
            for n, (token, good) in enumerate(zip(tokens.tolist(), sane.tolist(), strict=True))
        ]


def _draws(odds: Odds) -> bool:
    """Whether its token may be another than the likeliest of the logits."""
    return odds.shaped or odds.sampling.temperature > 0


class _Shape:
    """A row's choice, and the arrays that it points to."""

    def __init__(self, scores: Rows, odds: Odds) -> None:
        sampling = odds.sampling
        temperature = sampling.temperature
        self._kept: list[NDArray[np.generic]] = [scores]
        self.choice = Choice(
            scores=scores.ctypes.data,
            set=self._some(*_penalized(scores, odds)) if odds.penalized else Some(),
            added=self._some(*odds.bias(len(scores))) if sampling.logit_bias else Some(),
            allowed=self._allowed(odds, len(scores)),
            top_p=sampling.top_p,
            u=uniform(sampling.seed, odds.position),
            top_k=sampling.top_k,
            temperature=max(temperature, _COLDEST) if temperature > 0 else 0,
            min_p=sampling.min_p,
        )

    def _some(self, tokens: Tokens, values: Rows) -> Some:
        self._kept += [tokens, values]
        return Some(tokens.ctypes.data, values.ctypes.data, len(tokens))

    def _allowed(self, odds: Odds, width: int) -> int | None:
        if odds.matcher is None:
            return None
        allowed = np.ascontiguousarray(odds.matcher.allowed(width))
        self._kept.append(allowed)
        return allowed.ctypes.data


def _penalized(scores: Rows, odds: Odds) -> tuple[Tokens, Rows]:
    """The tokens seen, and what their scores become."""
    tokens, counts = odds.seen
    sampling = odds.sampling
    repetition = np.float32(sampling.repetition_penalty)
    found = scores[tokens]
    found = np.where(found > 0, found / repetition, found * repetition)
    found -= np.float32(sampling.frequency_penalty) * counts
    found -= np.float32(sampling.presence_penalty) * (counts > 0)
    return tokens, found


def _logprobs(
    logits: Logits, odds: Sequence[Odds], rows: Sequence[int], tokens: Tokens
) -> list[Logprob]:
    """Of each row's token and of its likeliest alternatives, by the model alone."""
    if not rows:
        return []
    scores = logits[rows]
    scores -= scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores)
    scores -= np.log(weights.sum(axis=-1, keepdims=True))
    most = max(odds[n].sampling.logprobs or 0 for n in rows)
    top: list[Tokens] = _likeliest(scores, most) if most else [tokens[:0]] * len(rows)
    found = []
    for row, n, tops in zip(scores, rows, top, strict=True):
        alternatives = tops[: odds[n].sampling.logprobs].tolist()
        others = tuple((token, _finite(row[token])) for token in alternatives)
        found.append(Logprob(_finite(row[tokens[n]]), others))
    return found


def _likeliest(scores: Rows, most: int) -> list[Tokens]:
    """The `most` likeliest tokens of each row, likeliest first, the lower one among equals."""
    most = min(most, scores.shape[1])
    least = np.partition(scores, -most, axis=-1)[:, -most]
    found = []
    for row, floor in zip(scores, least, strict=True):
        tokens = np.flatnonzero(row >= floor)
        found.append(tokens[np.argsort(-row[tokens], kind="stable")][:most])
    return found


def _finite(logprob: np.float32) -> float:
    """A number that JSON knows."""
    return max(float(logprob), -9999.0)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) for each seed and position, by SplitMix64 (Steele, Lea, Flood 2014)."""
    state = (_mix(seed & _MASK) + (position + 1) * _GOLDEN) & _MASK
    return (_mix(state) >> 11) / (1 << 53)


def _mix(state: int) -> int:
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)
