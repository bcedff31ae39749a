"""Attention over keys and values that stay where they are: one static tensor a layer.

transformers' models call the function named in their config for attention; ours writes a call's
keys and values at their places and attends over what the places hold, as its plan says.
"""

from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

_numbers = count()


class Plan(Protocol):
    """Which places a call's rows belong to."""

    def write(self, cache: torch.Tensor, new: torch.Tensor) -> None:
        """Put `new` [rows, heads, tokens, size] into `cache` [places, heads, context, size]."""
        ...

    def attend(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        *,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """[rows, heads, tokens, size] for `query` of that shape, over the whole caches."""
        ...


class Cache:
    """Keys and values [places, heads, context, size] of each layer, made at its first call."""

    def __init__(self, *, places: int, context: int) -> None:
        self.name = f"places-{next(_numbers)}"
        self.plan: Plan | None = None
        self._shape = places, context
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        AttentionInterface.register(self.name, self._attend)

    def copy(self, source: int, target: int, length: int) -> None:
        """Make the first `length` tokens of one place another's."""
        for layer in self._layers.values():
            for cache in layer:
                cache[target, :, :length] = cache[source, :, :length]

    def _attend(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """transformers' attention interface."""
        if softcap is not None or s_aux is not None:
            raise NotImplementedError("attention with soft caps or sinks is not supported")
        if self.plan is None:
            raise RuntimeError("a model was called outside its runner")
        keys, values = self._layer(module.layer_idx, key, value)
        self.plan.write(keys, key)
        self.plan.write(values, value)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        out = self.plan.attend(query, keys, values, scale=scale, window=sliding_window)
        return out.transpose(1, 2).contiguous(), None

    def _layer(
        self, index: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if index not in self._layers:
            self._layers[index] = self._made(key), self._made(value)
        return self._layers[index]

    def _made(self, like: torch.Tensor) -> torch.Tensor:
        """Zeros; on the CPU, memory that is taken page by page as it is written."""
        places, context = self._shape
        shape = places, like.shape[1], context, like.shape[3]
        if like.device.type == "cpu" and like.dtype == torch.float32:
            return torch.from_numpy(np.zeros(shape, np.float32))
        return torch.zeros(shape, dtype=like.dtype, device=like.device)


@dataclass(frozen=True, slots=True)
class Chunk:
    """`length` tokens of one place, from `start` on."""

    place: int
    start: int
    length: int

    def write(self, cache: torch.Tensor, new: torch.Tensor) -> None:
        """See Plan."""
        cache[self.place, :, self.start : self.start + self.length] = new[0]

    def attend(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        *,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """See Plan."""
        end = self.start + self.length
        held = torch.arange(end, device=query.device)
        own = torch.arange(self.start, end, device=query.device)[:, None]
        mask = held <= own
        if window is not None:
            mask &= held > own - window
        place = slice(self.place, self.place + 1)
        return _grouped(query, keys[place, :, :end], values[place, :, :end], mask, scale)


@dataclass(frozen=True, slots=True)
class Each:
    """One token in each of `places`, at its position; every row by itself.

    A row is computed over its own length, so that no neighbour changes a bit of it. Rows of the
    call beyond `places` are padding.
    """

    places: tuple[int, ...]
    positions: tuple[int, ...]

    def write(self, cache: torch.Tensor, new: torch.Tensor) -> None:
        """See Plan."""
        for row, (place, position) in enumerate(zip(self.places, self.positions, strict=True)):
            cache[place, :, position] = new[row, :, 0]

    def attend(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        *,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """See Plan."""
        out = query.new_zeros(*query.shape[:3], values.shape[-1])
        for row, (place, position) in enumerate(zip(self.places, self.positions, strict=True)):
            first = 0 if window is None else max(0, position + 1 - window)
            span = slice(place, place + 1), slice(None), slice(first, position + 1)
            out[row] = _grouped(query[row : row + 1], keys[span], values[span], None, scale)[0]
        return out


@dataclass(frozen=True, slots=True)
class Together:
    """One token in each of the first `rows` places, at `positions` [rows]; one call for all.

    Shapes depend on `rows` and `span` (how far back is looked at most) alone: a CUDA graph.
    """

    rows: int
    span: int
    positions: torch.Tensor

    def write(self, cache: torch.Tensor, new: torch.Tensor) -> None:
        """See Plan."""
        cache[torch.arange(self.rows, device=new.device), :, self.positions] = new[:, :, 0]

    def attend(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        *,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """See Plan."""
        held = torch.arange(self.span, device=query.device)
        own = self.positions[:, None]
        mask = held <= own
        if window is not None:
            mask &= held > own - window
        keys, values = keys[: self.rows, :, : self.span], values[: self.rows, :, : self.span]
        return _grouped(query, keys, values, mask[:, None, None], scale)


def _grouped(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Attention; query heads that share keys are taken as more queries of one head."""
    rows, heads, tokens, size = query.shape
    groups = heads // keys.shape[1]
    query = query.reshape(rows, keys.shape[1], groups * tokens, size)
    if mask is not None and mask.shape[-2] > 1:
        mask = mask.repeat(groups, 1)
    out = scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
    return out.reshape(rows, heads, tokens, out.shape[-1])
