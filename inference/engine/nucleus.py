"""Drawing from the likeliest tokens only: min_p, top_k and top_p, many rows at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from inference.engine.work import Sampling

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ONE = 0x3F800000
"""The bits of 1.0, the largest weight."""
_EXPONENTS = 128
_GUESS = 1e-4
"""Weight above which top_k is first looked for."""
_TINY = float(np.finfo(np.float32).smallest_subnormal)
_WIDE = 1024
"""Rows with more candidates are drawn one at a time, so that they make no wide matrix for all."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Each row's; `top_k` 0 keeps all."""

    top_p: Floats
    top_k: Ints
    min_p: Floats

    @classmethod
    def of(cls, samplings: Sequence[Sampling]) -> Self:
        """Of these samplings."""
        return cls(
            np.array([sampling.top_p for sampling in samplings], np.float64),
            np.array([sampling.top_k for sampling in samplings], np.int64),
            np.array([sampling.min_p for sampling in samplings], np.float64),
        )

    @property
    def any(self) -> NDArray[np.bool_]:
        """Which rows are filtered at all."""
        return (self.top_p < 1) | (self.top_k > 0) | (self.min_p > 0)

    def take(self, rows: Ints) -> Self:
        """Of these rows."""
        return type(self)(self.top_p[rows], self.top_k[rows], self.min_p[rows])


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Tokens that may be drawn, ordered by row."""

    rows: Ints
    tokens: Ints
    weights: NDArray[np.float32]

    def only(self, keep: NDArray[np.bool_]) -> "_Candidates":
        return _Candidates(self.rows[keep], self.tokens[keep], self.weights[keep])


def draw_filtered(
    weights: NDArray[np.float32], totals: Floats, filters: Filters, u: Floats, vocabulary: int
) -> Ints:
    """A token a row: of those at least `min_p` as likely as the likeliest, the `top_k` likeliest,
    of these the fewest that hold `top_p` of the weight (Holtzman et al. 2020).

    `weights` [rows, width] are likelihoods with the likeliest of a row 1; `totals` their sums.
    Among equally likely tokens the lower one comes first.
    """
    totals, ordered = _ordered(weights, totals, filters, vocabulary)
    counts = np.bincount(ordered.rows, minlength=len(u))
    tokens = np.empty(len(u), np.int64)
    narrow = np.flatnonzero(counts <= _WIDE)
    for rows in (narrow, *np.flatnonzero(counts > _WIDE)[:, None]):
        if len(rows):
            tokens[rows] = _pick(ordered, counts, rows, totals[rows], filters.take(rows), u[rows])
    return tokens


def likeliest(weights: NDArray[np.float32], most: int) -> list[Ints]:
    """The `most` likeliest tokens of each row, likeliest first; see `draw_filtered`."""
    rows = np.arange(len(weights))
    ones = np.ones(len(rows))
    filters = Filters(top_p=ones, top_k=np.full(len(rows), most), min_p=0 * ones)
    _, ordered = _ordered(weights, ones, filters, weights.shape[1])
    starts = np.searchsorted(ordered.rows, rows)
    ends = np.minimum(starts + most, np.searchsorted(ordered.rows, rows, side="right"))
    return [ordered.tokens[start:end] for start, end in zip(starts, ends, strict=True)]


def _ordered(
    weights: NDArray[np.float32], totals: Floats, filters: Filters, vocabulary: int
) -> tuple[Floats, _Candidates]:
    """All that may be drawn, likeliest first; and what `top_p` is a share of."""
    threshold = _threshold(totals, filters, vocabulary)
    found = _candidates(weights, threshold)
    short = np.bincount(found.rows, minlength=len(totals)) < filters.top_k
    if short.any():
        found = _candidates(weights, np.where(short, filters.min_p, threshold))
    totals, found = _trim(found, totals, filters)
    return totals, _order(found, weights.shape[1])


def _threshold(totals: Floats, filters: Filters, vocabulary: int) -> Floats:
    """A weight that no token to be kept is below.

    Tokens below (1 - top_p) / vocabulary of the whole hold less than 1 - top_p together. For
    `top_k` it is a guess.
    """
    nucleus = np.where(filters.min_p > 0, filters.min_p, totals * (1 - filters.top_p) / vocabulary)
    return np.where(filters.top_k > 0, np.maximum(filters.min_p, _GUESS), nucleus)


def _candidates(weights: NDArray[np.float32], threshold: Floats) -> _Candidates:
    floor = np.maximum(threshold, _TINY).astype(np.float32)
    flat = np.flatnonzero(weights >= floor[:, None])
    rows, tokens = np.divmod(flat, weights.shape[1])
    return _Candidates(rows, tokens, weights.ravel()[flat])


def _trim(found: _Candidates, totals: Floats, filters: Filters) -> tuple[Floats, _Candidates]:
    """Drop those whose binary order of magnitude is certainly not needed: less to sort.

    Also what `top_p` is a share of, where `top_k` does not say otherwise.
    """
    count = len(totals)
    order = _EXPONENTS - 1 - (found.weights.view(np.int32) >> 23)
    slots = found.rows * _EXPONENTS + order

    def held(weights: NDArray[np.float32] | None) -> Floats:
        sums = np.bincount(slots, weights, minlength=count * _EXPONENTS)
        return sums.reshape(count, -1).cumsum(axis=1)

    mass = held(found.weights)
    whole = np.where(filters.min_p > 0, mass[:, -1], totals)
    share = np.where(filters.top_p < 1, filters.top_p * whole * (1 + 1e-9), np.inf)
    by_count = filters.top_k > 0
    reached = np.where(by_count[:, None], held(None), mass)
    needed = np.where(by_count, filters.top_k, share)
    last = (reached < needed[:, None]).sum(axis=1)
    return whole, found.only(order <= last[found.rows])


def _order(found: _Candidates, width: int) -> _Candidates:
    """Likeliest first in each row, the lower token first among equals: one sort of integers."""
    bits = width.bit_length()
    magnitude = _ONE - found.weights.view(np.int32).astype(np.int64)
    keys = np.sort((found.rows << (30 + bits)) | (magnitude << bits) | found.tokens)
    weights = (_ONE - ((keys >> bits) & ((1 << 30) - 1))).astype(np.int32).view(np.float32)
    return _Candidates(keys >> (30 + bits), keys & ((1 << bits) - 1), weights)


def _pick(
    ordered: _Candidates, counts: Ints, rows: Ints, totals: Floats, filters: Filters, u: Floats
) -> Ints:
    """Draw in these rows of ordered candidates."""
    starts = (np.cumsum(counts) - counts)[rows]
    sizes = counts[rows]
    columns = np.arange(sizes.max())
    places = starts[:, None] + np.minimum(columns, sizes[:, None] - 1)
    weights = np.where(columns < sizes[:, None], ordered.weights[places], np.float32(0))
    held = np.cumsum(weights, axis=1, dtype=np.float64)
    each = np.arange(len(rows))
    limit = np.where(filters.top_k > 0, np.minimum(filters.top_k, sizes), sizes)
    whole = np.where(filters.top_k > 0, held[each, limit - 1], totals)
    target = np.where(filters.top_p < 1, filters.top_p * whole, np.inf)
    last = np.minimum((held < target[:, None]).sum(axis=1), limit - 1)
    index = (held <= (u * held[each, last])[:, None]).sum(axis=1)
    tokens: Ints = ordered.tokens[starts + np.minimum(index, last)]
    return tokens
