"""The echo model: says its prompt again, at once. For tests and for measuring everything else."""

from collections.abc import Sequence

import numpy as np

from inference.engine.runner import Logits
from inference.engine.text import ByteText

_LIKELY = 1e9


class EchoRunner:
    """Answers a `ByteText` prompt with its bytes and the end."""

    def __init__(self, *, slots: int, context: int, shelves: int = 4) -> None:
        self.slots = slots
        self.shelves = shelves
        self.context = context
        self._tokens: list[list[int]] = [[] for _ in range(slots + shelves)]

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Logits:
        """See Runner."""
        self._tokens[slot][start:] = tokens
        return self._logits([slot])

    def decode(
        self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]
    ) -> Logits:
        """See Runner."""
        for slot, token, position in zip(slots, tokens, positions, strict=True):
            self._tokens[slot][position:] = [token]
        return self._logits(slots)

    def copy(self, source: int, target: int, length: int) -> None:
        """See Runner."""
        self._tokens[target] = self._tokens[source][:length]

    def release(self, slot: int) -> None:
        """See Runner."""
        self._tokens[slot].clear()

    def _logits(self, slots: Sequence[int]) -> Logits:
        logits = np.zeros((len(slots), ByteText.END + 1), np.float32)
        logits[range(len(slots)), [_next(self._tokens[slot]) for slot in slots]] = _LIKELY
        return logits


def _next(tokens: list[int]) -> int:
    """The token after these: the prompt is what stands before the first end."""
    prompt = tokens.index(ByteText.END) if ByteText.END in tokens else len(tokens)
    answered = len(tokens) - prompt - 1
    return tokens[answered] if 0 <= answered < prompt else ByteText.END
