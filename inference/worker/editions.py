"""Which edition of a model a worker has loaded, so that no edition's answers pass for another's."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import orjson

from inference.catalog.offers import Offer

_WHOLE, _PIECES = 16 * 1024 * 1024, 64
"""A file of more bytes is told by its size and so many pieces of it."""
_PIECE = 64 * 1024


def edition(offer: Offer) -> str:
    """A name that changes with the model's version, backend, files (weights, tokenizer, template),
    adapter, or server: what the catalog says and what lies on disk, when the model is loaded."""
    remote = offer.remote
    there = (remote.url, remote.model) if remote is not None else None
    digest = sha256(orjson.dumps([offer.name, offer.version, offer.backend, there]))
    folders = [offer.folder] if remote is None or remote.counted else []
    for folder in [*folders, *filter(None, [offer.adapter])]:
        for file in sorted(each for each in folder.glob("*") if each.is_file()):
            digest.update(orjson.dumps([file.name, file.stat().st_size]))
            for piece in _read(file):
                digest.update(piece)
    return digest.hexdigest()


def _read(file: Path) -> Iterator[bytes]:
    size = file.stat().st_size
    with file.open("rb") as opened:
        if size <= _WHOLE:
            yield opened.read()
            return
        for piece in range(_PIECES):
            opened.seek(piece * (size - _PIECE) // (_PIECES - 1))
            yield opened.read(_PIECE)
