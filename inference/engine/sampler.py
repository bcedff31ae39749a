"""From logits to tokens. A row's token depends on its logits, sampling and position alone."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference.engine.runner import Logits
from inference.engine.work import Sampling

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def sample(
    logits: Logits, samplings: Sequence[Sampling], positions: Sequence[int]
) -> list[int | None]:
    """One token a row; None for a row whose logits are not numbers.

    `logits` is [rows, vocabulary]; `positions` are the indices of the tokens to draw in their
    completions: with the seed they are all the randomness there is, so a token comes out the same
    whatever shares the batch, and in a later attempt.
    """
    best = logits.argmax(axis=-1)
    sane = np.isfinite(logits[np.arange(len(best)), best])
    tokens: list[int | None] = [
        int(token) if good else None for token, good in zip(best, sane, strict=True)
    ]
    for row, sampling in enumerate(samplings):
        if sampling.temperature > 0 and sane[row]:
            weights = _weights(logits[row], int(best[row]), sampling.temperature)
            tokens[row] = _draw(weights, sampling.top_p, uniform(sampling.seed, positions[row]))
    return tokens


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) for each seed and position, by SplitMix64 (Steele, Lea, Flood 2014)."""
    state = (_mix(seed & _MASK) + (position + 1) * _GOLDEN) & _MASK
    return (_mix(state) >> 11) / (1 << 53)


def _mix(state: int) -> int:
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


def _weights(row: NDArray[np.float32], best: int, temperature: float) -> NDArray[np.float32]:
    scale = np.float32(1 / max(temperature, 1e-4))
    weights: NDArray[np.float32] = np.exp((row - row[best]) * scale)
    return weights


def _draw(weights: NDArray[np.float32], top_p: float, u: float) -> int:
    if top_p >= 1:
        return _pick(weights, u)
    candidates = _nucleus(weights, top_p)
    return int(candidates[_pick(weights[candidates], u)])


def _nucleus(weights: NDArray[np.float32], top_p: float) -> NDArray[np.int64]:
    """The fewest likeliest tokens that hold `top_p` of the weight (Holtzman et al. 2020).

    Tokens below (1 - top_p) / vocabulary of the whole hold less than 1 - top_p together, so
    only the others are sorted.
    """
    total = float(weights.sum(dtype=np.float64))
    likely = np.flatnonzero(weights >= total * (1 - top_p) / len(weights))
    order = likely[np.argsort(-weights[likely], kind="stable")]
    held = np.cumsum(weights[order], dtype=np.float64)
    enough = int(np.searchsorted(held, top_p * total))
    return order[: enough + 1]


def _pick(weights: NDArray[np.float32], u: float) -> int:
    held = np.cumsum(weights, dtype=np.float64)
    index = int(np.searchsorted(held, u * held[-1], side="right"))
    return min(index, len(weights) - 1)
