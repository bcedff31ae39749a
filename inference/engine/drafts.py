"""Prompt look-up: what followed the last time the same few tokens came (Saxena 2023)."""

from collections.abc import Sequence

_SAME = 3
"""How many tokens must be the same for what followed them to be a draft."""
_FIRST, _MOST = 3, 15
_PATIENCE = 32


class Drafts:
    """One sequence's. Drafts grow while they come true, and pause when they do not."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._seen = 0
        self._length = _FIRST
        self._pause = self._misses = 0

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens that may follow `tokens`; none where nothing speaks for any."""
        self._note(tokens)
        if self._pause:
            self._pause -= 1
            return []
        at = self._after.get(tuple(tokens[-_SAME:]))
        return [] if at is None else list(tokens[at : at + min(most, self._length)])

    def judge(self, proposed: int, accepted: int) -> None:
        """So many of the last draft's tokens came true."""
        if accepted:
            self._misses = 0
            grown = 2 * self._length if accepted == proposed else accepted + 1
            self._length = min(grown, _MOST)
        elif proposed:
            self._misses += 1
            self._length = 1
            self._pause = min(2**self._misses, _PATIENCE)

    def _note(self, tokens: Sequence[int]) -> None:
        """Remember what follows each few tokens, except what follows the last: nothing yet."""
        for end in range(max(self._seen, _SAME), len(tokens)):
            self._after[tuple(tokens[end - _SAME : end])] = end
        self._seen = max(self._seen, len(tokens))
