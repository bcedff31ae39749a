"""The echo model: says its prompt again, at once. For tests and for measuring everything else."""

from collections.abc import Sequence

import numpy as np

from inference.engine.runner import Logits
from inference.engine.text import ByteText

_LIKELY = 1e9


class EchoRunner:
    """Answers a `ByteText` prompt with its bytes and the end; a row runner as the native one is."""

    most_rows = 4096

    def __init__(self, *, slots: int, context: int, shelves: int = 4) -> None:
        self.slots = slots
        self.shelves = shelves
        self.context = context
        self._tokens: list[list[int]] = [[] for _ in range(slots + shelves)]

    def run(
        self,
        slots: Sequence[int],
        tokens: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
    ) -> Logits:
        """See RowRunner."""
        logits = np.zeros((len(wanted), ByteText.END + 1), np.float32)
        line = {row: number for number, row in enumerate(wanted)}
        for row, (slot, token, position) in enumerate(zip(slots, tokens, positions, strict=True)):
            self._tokens[slot][position:] = [token]
            if row in line:
                logits[line[row], _next(self._tokens[slot])] = _LIKELY
        return logits

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Logits:
        """See Runner."""
        places = range(start, start + len(tokens))
        return self.run([slot] * len(tokens), tokens, places, [len(tokens) - 1])

    def decode(
        self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]
    ) -> Logits:
        """See Runner."""
        return self.run(slots, tokens, positions, range(len(slots)))

    def copy(self, source: int, target: int, length: int) -> None:
        """See Runner."""
        self._tokens[target] = self._tokens[source][:length]

    def release(self, slot: int) -> None:
        """See Runner."""
        self._tokens[slot].clear()


def _next(tokens: list[int]) -> int:
    """The token after these: the prompt is what stands before the first end."""
    prompt = tokens.index(ByteText.END) if ByteText.END in tokens else len(tokens)
    answered = len(tokens) - prompt - 1
    return tokens[answered] if 0 <= answered < prompt else ByteText.END
