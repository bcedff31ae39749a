"""Finding texts by their words without reading them: keyed marks beside each sealed text.

A mark is a word's HMAC under the organization's data key, so that the index says nothing to whoever
has no key, and nothing at all once the key is destroyed. What it does show is that two texts have a
word in common: an organization asks for it, or there is none.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from unicodedata import normalize

import orjson

from kit.envelope import Place, Ring
from kit.errors import Invalid

MOST_WORDS = 2_000
"""Of one request; those that come after can't be found."""
MOST_WANTED = 8
_LONGEST = 40
_WORD = re.compile(r"\w+")


def marked(ring: Ring, organization: int, messages: bytes, answers: Sequence[str]) -> list[bytes]:
    """The marks of a request's words: `messages` as JSON, as they were sent, and its answers."""
    marker = ring.marker(place(organization))
    found = dict.fromkeys(_words([*answers, *_texts(orjson.loads(messages))]))
    return sorted(marker.mark(word) for word, _ in zip(found, range(MOST_WORDS), strict=False))


def wanted(ring: Ring, organization: int, text: str) -> list[list[bytes]]:
    """By word of `text` the marks it may have; a text must have one of each. Raises `Invalid`."""
    found = list(dict.fromkeys(_words([text])))
    if not 1 <= len(found) <= MOST_WANTED:
        raise Invalid(
            f"q must have from 1 to {MOST_WANTED} different words, not {len(found)}.", param="q"
        )
    marker = ring.marker(place(organization))
    return [marker.marks(word) for word in found]


def _words(texts: Iterable[str]) -> Iterator[str]:
    """Letters and digits, whatever their case or form (Unicode's NFKC)."""
    for text in texts:
        for found in _WORD.finditer(normalize("NFKC", text).casefold()):
            yield found.group()[:_LONGEST]


def _texts(value: Any) -> Iterator[str]:
    """What the messages say: every string but roles."""
    match value:
        case str():
            yield value
        case list():
            for each in value:
                yield from _texts(each)
        case dict():
            for name, each in value.items():
                if name not in ("role", "type"):
                    yield from _texts(each)


def place(organization: int) -> Place:
    """Where marks of words belong."""
    return Place(organization, "history.words", "")
