"""Runs an ONNX decoder on the CPU, its key-value cache written in place."""

import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from inference.engine.rows import Rows
from inference.engine.runner import Logits


class OnnxRunner:
    """A graph as `prepare` makes it.

    Inputs: input_ids [batch, length], seqlens_k [batch] (tokens in the row after the call, less
    one), total_sequence_length (the most of them); past and present keys and values of each layer
    are the same memory, [rows, heads, context, head size], of which a batch is a run of rows.
    Output: logits [batch, vocabulary] of the last position.
    """

    def __init__(
        self, path: Path, *, slots: int, context: int, threads: int, shelves: int = 8
    ) -> None:
        self.slots = slots
        self.shelves = shelves
        self.context = context
        self._session = ort.InferenceSession(path, _options(threads), ["CPUExecutionProvider"])
        self._caches = {
            node.name: _Cache(slots + shelves, int(node.shape[1]), context, int(node.shape[3]))
            for node in self._session.get_inputs()
            if node.name.startswith("past_key_values.")
        }
        self._logits = np.empty((slots, self._session.get_outputs()[0].shape[-1]), np.float32)
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
        self._compact(slots)
        span = self._rows.span(slots)
        rows = [self._rows.of(slot) for slot in slots]
        self._lengths[rows] = positions
        ids = np.zeros((len(span), 1), np.int64)
        places = [row - span.start for row in rows]
        ids[places, 0] = tokens
        logits = self._run(span.start, ids)
        self._lengths[rows] += 1
        return logits[places] if places != list(range(len(span))) else logits

    def copy(self, source: int, target: int, length: int) -> None:
        """See Runner. A shelf is a row of its own, behind all those that run."""
        self._copy(self._row(source), self._row(target), length)

    def release(self, slot: int) -> None:
        """See Runner. The system may take the memory back when it needs some."""
        if slot >= self.slots or self._rows.holds(slot):
            row = self._row(slot)
            self._lengths[row] = 0
            for cache in self._caches.values():
                cache.free(row)
            if slot < self.slots:
                self._rows.release(slot)

    def _run(self, first: int, ids: NDArray[np.int64]) -> Logits:
        """Run `ids` [batch, length] in the rows from `first`, each after its present length."""
        batch, length = ids.shape
        last = np.minimum(self._lengths[first : first + batch] + length, self.context) - 1
        binding = self._binding(first, batch)
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("seqlens_k", last)
        binding.bind_cpu_input("total_sequence_length", np.array(last.max() + 1, np.int32))
        self._session.run_with_iobinding(binding)
        return self._logits[:batch]

    def _binding(self, first: int, batch: int) -> ort.IOBinding:
        """What is the same whenever these rows run: where logits, keys and values are."""
        binding = self._bindings.get((first, batch))
        if binding is None:
            binding = self._bindings[first, batch] = self._session.io_binding()
            logits = self._logits[:batch]
            binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
            for name, cache in self._caches.items():
                rows = cache.array[first : first + batch]
                present = name.replace("past_key_values", "present")
                binding.bind_input(name, "cpu", 0, np.float32, rows.shape, rows.ctypes.data)
                binding.bind_output(present, "cpu", 0, np.float32, rows.shape, rows.ctypes.data)
        return binding

    def _compact(self, slots: Sequence[int]) -> None:
        move = self._rows.move(slots)
        if move is None:
            return
        source, target = move
        self._copy(source, target, int(self._lengths[source]))
        self._lengths[source] = 0

    def _copy(self, source: int, target: int, length: int) -> None:
        for cache in self._caches.values():
            cache.array[target, :, :length] = cache.array[source, :, :length]
        self._lengths[target] = length

    def _row(self, place: int) -> int:
        return self._rows.of(place) if place < self.slots else place


class _Cache:
    """One layer's keys or values. Memory is taken page by page as rows are written."""

    def __init__(self, *shape: int) -> None:
        self._row = 4 * int(np.prod(shape[1:]))
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._memory = mmap.mmap(-1, shape[0] * self._row, private)
        self._memory.madvise(mmap.MADV_NOHUGEPAGE)
        self.array = np.frombuffer(self._memory, np.float32).reshape(shape)

    def free(self, row: int) -> None:
        """Let the system take the row's pages when memory is short; until then they stay warm."""
        start = -(-row * self._row // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (row + 1) * self._row // mmap.PAGESIZE * mmap.PAGESIZE
        if start < end:
            self._memory.madvise(mmap.MADV_FREE, start, end - start)


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options
