"""Runs any causal language model of transformers; on a GPU by default, on the CPU as well."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from inference.engine.adapters import Adapters
from inference.engine.attention import Cache, Chunk, Each, Plan, Together
from inference.engine.manifest import NotPrepared
from inference.engine.runner import Logits
from inference.engine.weights import quantize

_ROWS = 8
_SHORTEST_SPAN = 256


class Batching(StrEnum):
    """How decodes run together.

    single   the linear layers over a multiple of eight rows, attention row by row: a row's bits
             depend on nothing else (measured on the CPU, whose default it is)
    bucketed over shapes that are powers of two, each one CUDA graph: the fastest on a GPU, whose
             default it is; a row's last bits may change with the shape
    fixed    over one shape, all slots and the whole context: one CUDA graph, rows independent
    """

    single = "single"
    bucketed = "bucketed"
    fixed = "fixed"


class TorchRunner:
    """A model saved by `save_pretrained` in `folder`, its cache static.

    float32 on the CPU, bfloat16 on a GPU; `quantization` int8 or int4 keeps the linear layers'
    weights in so many bits. `adapters` are folders as peft writes them, by name; slots that wear
    different ones run together.
    """

    def __init__(
        self,
        folder: Path,
        *,
        slots: int,
        context: int,
        threads: int,
        shelves: int = 8,
        quantization: str = "none",
        device: str | None = None,
        batching: Batching | None = None,
        adapters: Mapping[str, Path] | None = None,
    ) -> None:
        self.slots = slots
        self.shelves = shelves
        self.context = context
        self._device = _device(device)
        on_cpu = self._device.type == "cpu"
        self._batching = batching or (Batching.single if on_cpu else Batching.bucketed)
        if on_cpu:
            torch.set_num_threads(threads)
        self._cache = Cache(places=slots + shelves, context=context)
        self._adapters = Adapters(adapters or {})
        self._model = _load(folder, self._cache.name, self._device, quantization)
        self._adapters.fit(self._model)
        self._model.to(self._device)
        self._vocabulary = int(self._model.get_input_embeddings().weight.shape[0])
        self._lengths = np.zeros(slots, np.int64)
        self._ids = torch.zeros((slots, 1), dtype=torch.int64, device=self._device)
        self._positions = torch.zeros((slots, 1), dtype=torch.int64, device=self._device)
        self._worn = torch.full((slots,), -1, device=self._device)
        self._graphs: dict[tuple[int, int], tuple[Any, torch.Tensor]] = {}
        self.prefill(0, [0], 0)
        self.release(0)

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Logits:
        """See Runner."""
        self._check(tokens)
        ids = torch.tensor([tokens], device=self._device)
        positions = torch.arange(start, start + len(tokens), device=self._device)[None]
        self._adapters.which = self._worn[slot : slot + 1]
        logits = self._forward(Chunk(slot, start, len(tokens)), ids, positions)
        self._lengths[slot] = start + len(tokens)
        return _numbers(logits)

    def decode(
        self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]
    ) -> Logits:
        """See Runner."""
        self._check(tokens)
        if self._batching == Batching.single:
            logits = self._decode_each(slots, tokens, positions)
        else:
            logits = self._decode_together(slots, tokens, positions)
        self._lengths[list(slots)] = np.asarray(positions) + 1
        return logits

    def copy(self, source: int, target: int, length: int) -> None:
        """See Runner."""
        with torch.inference_mode():
            self._cache.copy(source, target, length)
        if target < self.slots:
            self._lengths[target] = length

    @property
    def adapters(self) -> frozenset[str]:
        """See Wearing."""
        return self._adapters.names

    def wear(self, slot: int, adapter: str) -> None:
        """See Wearing."""
        self._worn[slot] = self._adapters.number(adapter)

    def release(self, slot: int) -> None:
        """See Runner."""
        if slot < self.slots:
            self._lengths[slot] = 0

    def _decode_each(
        self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]
    ) -> Logits:
        padding = [0] * (-len(slots) % _ROWS)
        ids = torch.tensor([*tokens, *padding], device=self._device)[:, None]
        places = torch.tensor([*positions, *padding], device=self._device)[:, None]
        plan = Each(tuple(slots), tuple(positions))
        worn = self._worn[list(slots)]
        self._adapters.which = torch.cat(
            [worn, torch.full_like(self._worn[:1], -1).expand(len(padding))]
        )
        return _numbers(self._forward(plan, ids, places))[: len(slots)]

    def _decode_together(
        self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]
    ) -> Logits:
        """Rows that do not decode write where their next token will."""
        rows, span = self._shape(max(slots) + 1, max(positions) + 1)
        ids = np.zeros(rows, np.int64)
        ids[list(slots)] = tokens
        places = np.minimum(self._lengths[:rows], self.context - 1)
        places[list(slots)] = positions
        self._ids[:rows, 0] = torch.from_numpy(ids)
        self._positions[:rows, 0] = torch.from_numpy(places)
        return _numbers(self._run(rows, span))[list(slots)]

    def _shape(self, rows: int, span: int) -> tuple[int, int]:
        if self._batching == Batching.fixed:
            return self.slots, self.context
        span = max(_SHORTEST_SPAN, _power(span))
        return min(self.slots, _power(rows)), min(self.context, span)

    def _run(self, rows: int, span: int) -> torch.Tensor:
        """The step of this shape: on a GPU, recorded at its first use and played ever after."""
        plan = Together(rows, span, self._positions[:rows, 0])
        ids, positions = self._ids[:rows], self._positions[:rows]
        self._adapters.which = self._worn[:rows]
        if self._device.type != "cuda":
            return self._forward(plan, ids, positions)
        if (rows, span) not in self._graphs:
            self._forward(plan, ids, positions)
            torch.cuda.synchronize(self._device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                logits = self._forward(plan, ids, positions)
            self._graphs[rows, span] = graph, logits
        graph, logits = self._graphs[rows, span]
        graph.replay()
        return logits

    def _forward(self, plan: Plan, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """[rows, vocabulary] after the last of `ids` [rows, tokens]."""
        self._cache.plan = plan
        with torch.inference_mode():
            out = self._model(
                input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=1
            )
        logits: torch.Tensor = out.logits[:, -1]
        return logits

    def _check(self, tokens: Sequence[int]) -> None:
        """On a GPU, a look-up outside the table would break more than its request."""
        if not 0 <= min(tokens) <= max(tokens) < self._vocabulary:
            raise ValueError(f"the model's vocabulary has {self._vocabulary} tokens")


def _device(name: str | None) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise NotPrepared(f"the device {name} is asked for, but PyTorch sees no GPU here")
    return torch.device(name)


def _load(folder: Path, attention: str, device: torch.device, quantization: str) -> Any:
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise NotPrepared(f"{folder} holds no model that transformers can load: {error}") from error
    if quantization != "none":
        quantize(model, quantization)
    return model.to(device).eval()


def _numbers(logits: torch.Tensor) -> Logits:
    found: Logits = logits.float().cpu().numpy()
    return found


def _power(number: int) -> int:
    """The least power of two that is no less."""
    return 1 << (number - 1).bit_length()
