"""How many tokens of an answer are thinking: what it begins with, between think tags."""

from collections.abc import Sequence

OPENS, CLOSES = b"<think>", b"</think>"
_OPENING_TOKENS = 16
"""Of a prompt's end, in which a template may have opened the tag already."""


class Thought:
    """Counts, token by token; tags elsewhere than at an answer's beginning are text like other.

    `prompted` is the end of the prompt, in bytes.
    """

    def __init__(self, prompted: bytes = b"") -> None:
        self.tokens = 0
        self._open = prompted.rstrip().endswith(OPENS)
        self._over = False
        self._seen, self._before = b"", 0

    def push(self, piece: bytes, tokens: int = 1) -> None:
        """The answer goes on with these bytes, which are so many tokens."""
        if self._over:
            return
        self._seen += piece
        if not self._open:
            self._begin(tokens)
            return
        self.tokens += tokens
        self._over = CLOSES in self._seen
        self._seen = self._seen[-len(CLOSES) :]

    def _begin(self, tokens: int) -> None:
        self._before += tokens
        said = self._seen.lstrip()
        if said.startswith(OPENS):
            self._open, self.tokens = True, self._before
            self._over = CLOSES in said
        elif not OPENS.startswith(said):
            self._over = True


def prompted(prompt: Sequence[int], pieces: Sequence[bytes]) -> bytes:
    """The end of a prompt, in bytes, as `Thought` wants it."""
    return b"".join(pieces[token] for token in prompt[-_OPENING_TOKENS:] if token < len(pieces))
