"""Texts to be embedded: read into tokens, and what their vectors come to."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inference.admission import ContextOverflow, Wish
from inference.catalog.offers import Offer
from inference.engine import Sampling, Vectors, WordPieceText
from kit.errors import Invalid
from kit.threads import reading

MOST_TEXTS = 2_048
MOST_TOKENS = 300_000
"""In one request, as OpenAI has them."""
_LONG = 8_192
"""Characters that are tokenized in some milliseconds."""
_NOTHING_SAMPLED = Sampling(max_tokens=1)


@dataclass(frozen=True, slots=True)
class Named:
    """A text or its tokens, and the field that has it."""

    content: str | Sequence[int]
    param: str


async def embedding_wish(
    model: Offer, texts: Sequence[Named], *, endpoint: str, label: str
) -> Wish:
    """What a sentence encoder is asked. Raises `Invalid` or `ContextOverflow`, naming the text."""
    if sum(len(each.content) for each in texts) > _LONG:
        rows = await reading(_read_all, model, texts)
    else:
        rows = _read_all(model, texts)
    return Wish(
        offer=model,
        prompt=tuple(token for row in rows for token in row),
        lengths=tuple(map(len, rows)),
        sampling=_NOTHING_SAMPLED,
        endpoint=endpoint,
        label=label,
    )


def known_dimensions(model: Offer, wanted: int | None) -> int | None:
    """The same; raises `Invalid` for more than the model's vectors have."""
    most = model.reader.dimensions
    if wanted is not None and wanted > most:
        raise Invalid(
            f"dimensions: the vectors of {model.name} have {most}, not {wanted}.",
            param="dimensions",
        )
    return wanted


def shortened(vectors: Vectors, dimensions: int | None) -> Vectors:
    """The first `dimensions` of each, brought to length 1 again; all of them if None."""
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]
    lengths: Vectors = np.linalg.norm(cut, axis=1, keepdims=True)
    return (cut / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)


def packed(vectors: Vectors) -> list[str]:
    """Each as OpenAI packs it: base64 of little-endian numbers of 32 bit."""
    return [b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]


def _read_all(model: Offer, texts: Sequence[Named]) -> list[Sequence[int]]:
    reader, total = model.reader, 0
    rows: list[Sequence[int]] = []
    for each in texts:
        rows.append(_read(model, reader, each))
        total += len(rows[-1])
        if total > MOST_TOKENS:
            raise Invalid(
                f"{each.param}: with it, these are more than {MOST_TOKENS:,} tokens; send the rest "
                "in another request.",
                param=each.param,
            )
    return rows


def _read(model: Offer, reader: WordPieceText, each: Named) -> Sequence[int]:
    if isinstance(each.content, str):
        if not each.content.strip():
            raise Invalid(f"{each.param} is empty; there is nothing to embed.", param=each.param)
        row = reader.encode(each.content)
    else:
        if (unknown := max(each.content)) >= reader.vocabulary:
            raise Invalid(
                f"{each.param}: {model.name} has no token {unknown}; send the text itself.",
                param=each.param,
            )
        row = reader.marked(each.content)
    if len(row) > reader.context:
        raise ContextOverflow(
            f"{each.param} has {len(row):,} tokens, and {model.name} reads at most "
            f"{reader.context:,} of a text. Split it.",
            param=each.param,
        )
    return row
