"""The text of a sentence encoder: word pieces in, and nothing to say."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from inference.engine.manifest import read_manifest


class WordPieceText:
    """`encode` gives what the encoder takes, its marks included."""

    def __init__(self, folder: Path) -> None:
        manifest = read_manifest(folder)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.context = manifest.context
        self.dimensions = manifest.dimensions
        self.vocabulary = tokenizer.get_vocab_size()
        self._marks = tuple(tokenizer.encode("").ids)

    def encode(self, text: str) -> list[int]:
        """A text between the marks that the encoder was trained with; spelt ones stay text."""
        return list(self._tokenizer.encode(text).ids)

    def marked(self, tokens: Sequence[int]) -> list[int]:
        """Tokens between the marks, unless they stand there already."""
        first, last = self._marks
        inner = list(tokens)
        if inner[:1] == [first] and inner[-1:] == [last] and len(inner) > 1:
            return inner
        return [first, *inner, last]
