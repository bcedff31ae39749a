"""Log-probabilities as OpenAI writes them."""

from collections.abc import Iterator, Sequence
from typing import Any

from inference.engine import Text
from inference.stream import Piece


def token_logprobs(text: Text, pieces: Sequence[Piece]) -> Iterator[dict[str, Any]]:
    """An entry for each token of these pieces that has text: ends and special tokens have none."""
    for piece in pieces:
        for token, logprob in zip(piece.tokens, piece.logprobs, strict=False):
            if token not in text.eos and _bytes(text, token):
                top = [_entry(text, *alternative) for alternative in logprob.top]
                yield _entry(text, token, logprob.logprob) | {"top_logprobs": top}


def _entry(text: Text, token: int, logprob: float) -> dict[str, Any]:
    spelled = _bytes(text, token)
    return {
        "token": spelled.decode("utf-8", "replace"),
        "logprob": logprob,
        "bytes": [*spelled],
    }


def _bytes(text: Text, token: int) -> bytes:
    return text.pieces[token] if token < len(text.pieces) else b""
