"""What the engine asks of a model."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
"""[rows, vocabulary]; valid until the runner's next call."""


class Runner(Protocol):
    """A model with room for `slots` sequences of up to `context` tokens each.

    `shelves` more places, numbered from `slots` on, never run: they hold what `copy` puts there,
    the beginnings of finished requests for the next ones. A call writes the keys and values of its
    tokens at their positions in the slot and nothing else the engine can see: a call that raised
    can be made again. A row's logits never depend on the other rows.
    """

    @property
    def slots(self) -> int: ...

    @property
    def shelves(self) -> int: ...

    @property
    def context(self) -> int: ...

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Logits:
        """Run one slot's `tokens` at positions from `start`; [1, vocabulary] after the last."""
        ...

    def decode(
        self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]
    ) -> Logits:
        """Run one token in each of the slots at its position; [len(slots), vocabulary]."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Make the first `length` tokens of `source` what `target` holds, bit for bit."""
        ...

    def release(self, slot: int) -> None:
        """Forget what the slot or shelf holds."""
        ...


@runtime_checkable
class RowRunner(Runner, Protocol):
    """A runner whose numbers do not depend on how tokens are put together into calls.

    Then a step is one call, prompts are cut anywhere, what was computed one by one is used again
    as if it had been a prompt, and drafts are verified without changing a bit.
    """

    @property
    def most_rows(self) -> int: ...

    def run(
        self,
        slots: Sequence[int],
        tokens: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
    ) -> Logits:
        """Run at most `most_rows` rows, each a token in its slot at its position.

        A slot may have many rows, each of which sees those at lower positions. Gives the logits
        [len(wanted), vocabulary] of the rows numbered in `wanted`.
        """
        ...


@runtime_checkable
class Wearing(Runner, Protocol):
    """A runner with adapters: what a slot computes depends on which it wears."""

    @property
    def adapters(self) -> frozenset[str]: ...

    def wear(self, slot: int, adapter: str) -> None:
        """From now on the slot runs with this one of `adapters`; with none if ""."""
        ...
