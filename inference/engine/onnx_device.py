"""Runs an ONNX decoder where its execution provider computes: its cache stays in that memory.

PyTorch holds the memory, since onnxruntime can bind any address but copy nothing inside a device.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from inference.engine.providers import providers
from inference.engine.rows import Rows
from inference.engine.runner import Logits

_KINDS = {"tensor(float16)": torch.float16, "tensor(float)": torch.float32}


class DeviceOnnxRunner:
    """A graph as `prepare` makes it for a provider; see OnnxRunner for its inputs and rows.

    A row's last bits may change with the shape of its batch, as they do in any GPU's kernels.
    """

    def __init__(
        self,
        path: Path,
        *,
        provider: str,
        slots: int,
        context: int,
        threads: int,
        shelves: int = 8,
    ) -> None:
        self.slots = slots
        self.shelves = shelves
        self.context = context
        self._session = ort.InferenceSession(
            path, _options(threads), providers(provider, path.parent)
        )
        self._device = "cpu" if provider == "cpu" else "cuda"
        [logits] = [one for one in self._session.get_outputs() if one.name == "logits"]
        self._logits = self._zeros(logits.type, slots, int(logits.shape[-1]))
        self._caches = {
            node.name: self._zeros(
                node.type, slots + shelves, int(node.shape[1]), context, int(node.shape[3])
            )
            for node in self._session.get_inputs()
            if node.name.startswith("past_key_values.")
        }
        self._rows = Rows(slots)
        self._lengths = np.zeros(slots + shelves, np.int32)
        self._bindings: dict[tuple[int, int], ort.IOBinding] = {}

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Logits:
        """See Runner."""
        row = self._rows.of(slot)
        self._lengths[row] = start
        logits = self._run(row, np.array([tokens], np.int64))
        self._lengths[row] = start + len(tokens)
        return logits

    def decode(
        self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]
    ) -> Logits:
        """See Runner. Rows that do not decode write where their next token will."""
        move = self._rows.move(slots)
        if move is not None:
            self._copy(*move, int(self._lengths[move[0]]))
            self._lengths[move[0]] = 0
        span = self._rows.span(slots)
        rows = [self._rows.of(slot) for slot in slots]
        self._lengths[rows] = positions
        ids = np.zeros((len(span), 1), np.int64)
        places = [row - span.start for row in rows]
        ids[places, 0] = tokens
        logits = self._run(span.start, ids)
        self._lengths[rows] += 1
        return logits[places]

    def copy(self, source: int, target: int, length: int) -> None:
        """See Runner."""
        self._copy(self._row(source), self._row(target), length)

    def release(self, slot: int) -> None:
        """See Runner."""
        if slot >= self.slots or self._rows.holds(slot):
            self._lengths[self._row(slot)] = 0
            if slot < self.slots:
                self._rows.release(slot)

    def _run(self, first: int, ids: NDArray[np.int64]) -> Logits:
        batch, length = ids.shape
        last = np.minimum(self._lengths[first : first + batch] + length, self.context) - 1
        binding = self._binding(first, batch)
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("seqlens_k", last.astype(np.int32))
        binding.bind_cpu_input("total_sequence_length", np.array(last.max() + 1, np.int32))
        self._session.run_with_iobinding(binding)
        logits: Logits = self._logits[:batch].float().cpu().numpy()
        return logits

    def _binding(self, first: int, batch: int) -> ort.IOBinding:
        """What is the same whenever these rows run: where logits, keys and values are."""
        binding = self._bindings.get((first, batch))
        if binding is None:
            binding = self._bindings[first, batch] = self._session.io_binding()
            binding.bind_output("logits", *self._place(self._logits[:batch]))
            for name, cache in self._caches.items():
                place = self._place(cache[first : first + batch])
                binding.bind_input(name, *place)
                binding.bind_output(name.replace("past_key_values", "present"), *place)
        return binding

    def _place(self, tensor: torch.Tensor) -> tuple[str, int, type, tuple[int, ...], int]:
        """Where a tensor lies, as onnxruntime asks it."""
        kind = np.float16 if tensor.dtype == torch.float16 else np.float32
        return self._device, 0, kind, tuple(tensor.shape), tensor.data_ptr()

    def _zeros(self, kind: str, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=_KINDS[kind], device=self._device)

    def _copy(self, source: int, target: int, length: int) -> None:
        for cache in self._caches.values():
            cache[target, :, :length] = cache[source, :, :length]
        self._lengths[target] = length

    def _row(self, place: int) -> int:
        return self._rows.of(place) if place < self.slots else place


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return options
