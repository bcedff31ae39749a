"""Where the kernels' weights, keys and values lie."""

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from inference.engine.native.weights import Shape

_LINE = 64


class Weights:
    """A file's tensors in memory of large pages, each at a cache line."""

    def __init__(self, file: Path) -> None:
        self._tensors: dict[str, NDArray[np.generic]] = {}
        with safe_open(file, "numpy") as source:
            names = list(source.keys())
            self._memory = mmap.mmap(-1, file.stat().st_size + _LINE * len(names))
            self._memory.madvise(mmap.MADV_HUGEPAGE)
            room, at = np.frombuffer(self._memory, np.uint8), 0
            for name in names:
                tensor = source.get_tensor(name)
                held = room[at : at + tensor.nbytes].view(tensor.dtype).reshape(tensor.shape)
                held[...] = tensor
                self._tensors[name] = held
                at += -(-tensor.nbytes // _LINE) * _LINE

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        return self._tensors[name]


class Cache:
    """Keys and values of each place. Memory is taken page by page as places are written."""

    def __init__(self, shape: Shape, *, places: int, context: int) -> None:
        self._place = 2 * shape.layers * shape.groups * context * shape.head_size
        self._parts = [_Pages(places * self._place) for _ in range(2)]
        self.keys, self.values = (part.address for part in self._parts)

    def free(self, place: int) -> None:
        """Let the system take a place's pages when memory is short; until then they stay warm."""
        for part in self._parts:
            part.free(place * self._place, (place + 1) * self._place)


class _Pages:
    def __init__(self, size: int) -> None:
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._memory = mmap.mmap(-1, size, private)
        self._memory.madvise(mmap.MADV_NOHUGEPAGE)
        self.address = np.frombuffer(self._memory, np.uint8).ctypes.data

    def free(self, start: int, end: int) -> None:
        start = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        end = end // mmap.PAGESIZE * mmap.PAGESIZE
        if start < end:
            self._memory.madvise(mmap.MADV_FREE, start, end - start)
