"""From logits to tokens, many rows at once; a row's token depends on nothing outside its row.

Every operation is elementwise, or sums along a row in an order that the number of rows does not
change: that is what keeps batched equal to solo, bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.engine.delta import Logprob
from inference.engine.nucleus import Filters, draw_filtered, likeliest
from inference.engine.odds import Odds
from inference.engine.runner import Logits

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_BLOCK = 256
"""Weights are summed by blocks of so many, so that a draw looks at one block of a row only."""

Rows = NDArray[np.float32]
Tokens = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token, and its log-probabilities where its sampling asks for them."""

    token: int
    logprob: Logprob | None = None


class Sampler:
    """Draws tokens. Keeps a buffer the size of the largest batch it has seen."""

    def __init__(self) -> None:
        self._buffer = np.empty((0, 0), np.float32)

    def sample(self, logits: Logits, odds: Sequence[Odds]) -> list[Drawn | None]:
        """One token a row; None for a row whose logits are not numbers or allow no token.

        `logits` is [rows, vocabulary] and stays as it is; `odds` are the rows'. The seed and the
        position are all the randomness there is, so a token comes out the same whatever shares
        the batch, and in a later attempt.
        """
        tokens = logits.argmax(axis=-1)
        sane = np.isfinite(logits[np.arange(len(tokens)), tokens])
        # Those that draw come first, so that their weights are one run of rows.
        drawing = [n for n, one in enumerate(odds) if one.sampling.temperature > 0 and sane[n]]
        shaped = [n for n, one in enumerate(odds) if one.shaped and sane[n]]
        active = drawing + [n for n in shaped if odds[n].sampling.temperature == 0]
        if active:
            chosen = self._choose(logits, [odds[n] for n in active], active, len(drawing))
            tokens[active] = chosen
            sane[active] = chosen >= 0
        reported = [n for n, one in enumerate(odds) if one.sampling.logprobs is not None]
        logprobs = dict(zip(reported, _logprobs(logits, odds, reported, tokens), strict=True))
        return [
            Drawn(token, logprobs.get(n)) if good else None
            for n, (token, good) in enumerate(zip(tokens.tolist(), sane.tolist(), strict=True))
        ]

    def _choose(
        self, logits: Logits, odds: Sequence[Odds], rows: Sequence[int], drawing: int
    ) -> Tokens:
        """Tokens of these rows, of which the first `drawing` draw; -1 where none is allowed."""
        vocabulary = logits.shape[1]
        scores = self._copy(logits, rows)
        _shape(scores[:, :vocabulary], odds)
        best = scores.argmax(axis=-1)
        peak = scores[np.arange(len(best)), best]
        allowed = np.isfinite(peak)
        if drawing:
            scores, peak = scores[:drawing], np.where(allowed, peak, 0)[:drawing]
            scores[~allowed[:drawing]] = 0
            weights = _weigh(scores, peak, odds[:drawing])
            best[:drawing] = _draw(weights, odds[:drawing], best[:drawing], vocabulary)
        return np.where(allowed, best, -1)

    def _copy(self, logits: Logits, rows: Sequence[int]) -> Rows:
        """[rows, vocabulary rounded up to blocks]; what is beyond the vocabulary weighs nothing."""
        vocabulary = logits.shape[1]
        width = -(-vocabulary // _BLOCK) * _BLOCK
        if len(rows) > len(self._buffer) or width != self._buffer.shape[1]:
            self._buffer = np.empty((len(rows), width), np.float32)
        scores = self._buffer[: len(rows)]
        whole = list(rows) == list(range(len(logits)))
        scores[:, :vocabulary] = logits if whole else logits[rows]
        scores[:, vocabulary:] = -np.inf
        return scores


def _shape(scores: Rows, odds: Sequence[Odds]) -> None:
    """Penalties, biases and grammars, in place. [rows, vocabulary]."""
    _penalize(scores, [(n, one) for n, one in enumerate(odds) if one.penalized])
    biased = [
        (n, token, bias)
        for n, one in enumerate(odds)
        for token, bias in one.sampling.logit_bias
        if token < scores.shape[1]
    ]
    if biased:
        rows, tokens, biases = zip(*biased, strict=True)
        scores[rows, tokens] += np.array(biases, np.float32)
    for n, one in enumerate(odds):
        if one.matcher is not None:
            scores[n, ~one.matcher.allowed(scores.shape[1])] = -np.inf


def _penalize(scores: Rows, odds: Sequence[tuple[int, Odds]]) -> None:
    if not odds:
        return
    seen = [one.seen for _, one in odds]
    sizes = [len(tokens) for tokens, _ in seen]
    tokens = np.concatenate([tokens for tokens, _ in seen])
    counts = np.concatenate([counts for _, counts in seen])
    samplings = [one.sampling for _, one in odds]
    rows, repetition, frequency, presence = (
        np.repeat(np.array(values, kind), sizes)
        for values, kind in (
            ([n for n, _ in odds], np.int64),
            ([sampling.repetition_penalty for sampling in samplings], np.float32),
            ([sampling.frequency_penalty for sampling in samplings], np.float32),
            ([sampling.presence_penalty for sampling in samplings], np.float32),
        )
    )
    found = scores[rows, tokens]
    found = np.where(found > 0, found / repetition, found * repetition)
    scores[rows, tokens] = found - frequency * counts - presence * (counts > 0)


def _weigh(scores: Rows, peak: Rows, odds: Sequence[Odds]) -> Rows:
    """Likelihoods, the likeliest of a row 1; in place."""
    scale = [1 / max(one.sampling.temperature, 1e-4) for one in odds]
    scores -= peak[:, None]
    scores *= np.array(scale, np.float32)[:, None]
    return np.exp(scores, out=scores)


def _draw(weights: Rows, odds: Sequence[Odds], best: Tokens, vocabulary: int) -> Tokens:
    blocks = weights.reshape(len(odds), -1, _BLOCK).sum(axis=-1, dtype=np.float64)
    u = np.array([uniform(one.sampling.seed, one.position) for one in odds])
    filters = Filters.of([one.sampling for one in odds])
    tokens = best.copy()
    plain = np.flatnonzero(~filters.any)
    if len(plain):
        tokens[plain] = _draw_plain(weights, plain, blocks[plain], u[plain], best[plain])
    if len(plain) < len(odds):
        some = np.flatnonzero(filters.any)
        few = weights if len(some) == len(odds) else weights[some]
        totals = blocks[some].sum(axis=-1)
        tokens[some] = draw_filtered(few, totals, filters.take(some), u[some], vocabulary)
    return tokens


def _draw_plain(
    weights: Rows, rows: Tokens, blocks: NDArray[np.float64], u: NDArray[np.float64], best: Tokens
) -> Tokens:
    """Find the block, then the token in it."""
    held = np.cumsum(blocks, axis=1)
    target = u * held[:, -1]
    block = np.minimum((held <= target[:, None]).sum(axis=1), blocks.shape[1] - 1)
    before = np.where(block > 0, held[np.arange(len(rows)), block - 1], 0)
    columns = block[:, None] * _BLOCK + np.arange(_BLOCK)
    inside = before[:, None] + np.cumsum(weights[rows[:, None], columns], axis=1, dtype=np.float64)
    place = np.minimum((inside <= target[:, None]).sum(axis=1), _BLOCK - 1)
    tokens: Tokens = columns[np.arange(len(rows)), place]
    # A last bit of rounding must not lead to a token that is not allowed.
    return np.where(weights[rows, tokens] > 0, tokens, best)


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
    top: list[Tokens] = likeliest(weights, most) if most else [tokens[:0]] * len(rows)
    found = []
    for row, n, tops in zip(scores, rows, top, strict=True):
        alternatives = tops[: odds[n].sampling.logprobs].tolist()
        others = tuple((token, _finite(row[token])) for token in alternatives)
        found.append(Logprob(_finite(row[tokens[n]]), others))
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
