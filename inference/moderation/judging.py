"""Judging texts: how near they are to what each category is like, and what the rules say.

A text's score of a category is a logistic function of two cosines: with the nearest prototype of
the category, and how much nearer that is than the nearest harmless one. The prototypes and the
function were chosen by looking at short English texts; docs/api.md says what they find in others.
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np

from inference.catalog.offers import Offer
from inference.engine import Sampling, Texts, Vectors, load_embedder, vectors_of
from inference.moderation.categories import RULES, Category

FLAGGED = 0.5
"""From which score on a text is of a category."""
_BY_RULE = 0.95
_NEAR, _NEARER, _STEEPNESS = 0.45, 0.14, 9.0
_HARMLESS = "harmless"
_loading = Lock()


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of one text: a score from 0 to 1 of each category."""

    scores: Mapping[Category, float]

    @property
    def categories(self) -> Mapping[Category, bool]:
        """Of which it is."""
        return {category: score >= FLAGGED for category, score in self.scores.items()}

    @property
    def is_flagged(self) -> bool:
        """Whether it is of any."""
        return any(self.categories.values())


def judge(text: str, windows: Vectors, like: Mapping[str, Vectors]) -> Judgement:
    """A text by its words and the vectors of its windows; of several the worst counts."""
    harmless = (windows @ like[_HARMLESS].T).max(axis=1)
    scores = {}
    for category in Category:
        near = (windows @ like[category].T).max(axis=1)
        distance = ((near - _NEAR) + (near - harmless - _NEARER)).max()
        score = 1 / (1 + math.exp(-_STEEPNESS * float(distance)))
        if any(rule.search(text) for rule in RULES.get(category, ())):
            score = max(score, _BY_RULE)
        scores[category] = score
    for category, score in [*scores.items()]:
        scores[category.whole] = max(scores[category.whole], score)
    return Judgement({category: round(score, 6) for category, score in scores.items()})


def prototypes(model: Offer) -> Mapping[str, Vectors]:
    """The vectors of what each category is like, by this encoder; for threads.

    Made once a process, which takes about a second.
    """
    with _loading:
        return _vectors(model.folder, model.version, model)


@lru_cache(4)
def _vectors(folder: Path, version: str, model: Offer) -> Mapping[str, Vectors]:
    told = tomllib.loads((Path(__file__).parent / "prototypes.toml").read_text())
    rows = [model.reader.encode(text) for each in told.values() for text in each["like"]]
    embedder = load_embedder(folder, threads=1)
    embedder.submit(_work(rows))
    while not (ended := embedder.step()):
        pass
    vectors = vectors_of(ended[0].text, count=len(rows))
    borders = np.cumsum([len(each["like"]) for each in told.values()])[:-1]
    return dict(zip(told, np.split(vectors, borders), strict=True))


def _work(rows: Sequence[Sequence[int]]) -> Texts:
    return Texts(
        id="prototypes",
        tenant="",
        prompt=tuple(token for row in rows for token in row),
        lengths=tuple(map(len, rows)),
        sampling=Sampling(max_tokens=1),
    )
