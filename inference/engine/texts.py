"""What goes into an embedder, and what its delta's text says."""

from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.engine.work import Prompt, Work

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Texts(Work):
    """Texts whose vectors are wanted: `prompt` has them one after another, `lengths` their tokens.

    The one delta of its end has all of them as text: see `vectors_of`.
    """

    lengths: tuple[int, ...] = ()

    def rows(self) -> Iterator[Prompt]:
        """Each text."""
        begin = 0
        for length in self.lengths:
            yield self.prompt[begin : begin + length]
            begin += length


def vectors_of(text: str, *, count: int) -> Vectors:
    """The vectors [count, dimensions] in a delta's text."""
    return np.frombuffer(b64decode(text), "<f4").reshape(count, -1)
