"""Runs a Llama-like decoder in 8 bit on the CPU, by kernels of our own."""

import ctypes
import json
from collections.abc import Sequence
from ctypes import byref, c_double, c_int, c_void_p
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.engine.native.library import load_library
from inference.engine.native.memory import Weights
from inference.engine.native.model import Decoder, Model
from inference.engine.native.weights import FILE, LANES, read_shape, read_theta
from inference.engine.runner import Logits

Ints = NDArray[np.int32]

PARTS = ("linear layers", "output layer", "attention", "all else")
_SPARE_ROWS = 256
"""For prompts and drafts, beside a row for each slot."""


class NativeRunner:
    """A model's folder as `prepare` makes it. See Runner.

    Its numbers do not depend on how tokens are put together into calls: a prompt in one call, in
    chunks or token by token gives the same bits, beside any neighbours.
    """

    def __init__(
        self, folder: Path, *, slots: int, context: int, threads: int, shelves: int = 8
    ) -> None:
        self.slots, self.shelves, self.context = slots, shelves, context
        self.most_rows = slots + _SPARE_ROWS
        config = json.loads((folder / "config.json").read_text())
        self._library = _declared(load_library())
        self.shape = read_shape(config)
        self._decoder = Decoder(
            self.shape,
            Weights(folder / FILE),
            theta=read_theta(config),
            places=slots + shelves,
            context=context,
        )
        model = self._decoder.model
        self._vocabulary = model.vocabulary
        self._logits = np.empty((self.most_rows, model.head.tiles * LANES), np.float32)
        self._runner = self._library.runner_new(byref(model), threads, self.most_rows)
        if not self._runner:
            raise MemoryError("no memory for the model's rows")

    def __del__(self) -> None:
        if getattr(self, "_runner", None):
            self._library.runner_free(self._runner)

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Logits:
        """See Runner."""
        logits = self._logits[:0]
        for first in range(0, len(tokens), self.most_rows):
            part = tokens[first : first + self.most_rows]
            positions = range(start + first, start + first + len(part))
            last = [len(part) - 1] if first + len(part) == len(tokens) else []
            logits = self.run([slot] * len(part), part, positions, last)
        return logits

    def decode(
        self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]
    ) -> Logits:
        """See Runner."""
        return self.run(slots, tokens, positions, range(len(slots)))

    def run(
        self,
        slots: Sequence[int],
        tokens: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
    ) -> Logits:
        """Run rows together, each a token in its slot at its position; [len(wanted), vocabulary].

        A slot may have many rows, each of which sees those at lower positions.
        """
        rows = [np.array(one, np.int32) for one in (tokens, slots, positions, wanted)]
        self._check(*rows)
        at = [one.ctypes.data for one in rows]
        self._library.runner_run(
            self._runner, len(slots), *at[:3], len(wanted), at[3], self._logits.ctypes.data
        )
        return self._logits[: len(wanted), : self._vocabulary]

    def seconds(self) -> dict[str, float]:
        """What the last call spent on which part."""
        found = (c_double * len(PARTS))()
        self._library.runner_seconds(self._runner, found)
        return dict(zip(PARTS, found, strict=True))

    def _check(self, tokens: Ints, slots: Ints, positions: Ints, wanted: Ints) -> None:
        """The kernels trust what they are given."""
        if len(tokens) > self.most_rows:
            raise ValueError(f"{len(tokens)} rows in a call; {self.most_rows} is the most")
        for name, values, limit in (
            ("token", tokens, self._vocabulary),
            ("slot", slots, self.slots),
            ("position", positions, self.context),
            ("wanted row", wanted, len(tokens)),
        ):
            if values.size and not 0 <= values.min() <= values.max() < limit:
                raise ValueError(f"{name}s from {values.min()} to {values.max()}; below {limit}")

    def copy(self, source: int, target: int, length: int) -> None:
        """See Runner."""
        self._library.runner_copy(byref(self._decoder.model), source, target, length)

    def release(self, slot: int) -> None:
        """See Runner. The system may take the memory back when it needs some."""
        self._decoder.cache.free(slot)


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    model = ctypes.POINTER(Model)
    library.runner_new.argtypes = model, c_int, c_int
    library.runner_new.restype = c_void_p
    library.runner_free.argtypes = (c_void_p,)
    library.runner_run.argtypes = c_void_p, c_int, *[c_void_p] * 3, c_int, c_void_p, c_void_p
    library.runner_seconds.argtypes = c_void_p, c_void_p
    library.runner_copy.argtypes = model, c_int, c_int, c_int
    return library
