"""How often one question is taken for another: of pairs that ask the same, and others like them.

    .venv/bin/python benchmarks/semantic.py [--threads 2] [--misses]

benchmarks/pairs/ has questions, each with one that asks the same in other words and one like it
that has another answer. `questions.txt` is what the rules of inference/gist.py were made with,
`unseen.txt` was written after them. For each threshold: of the pairs that say the same how many are
found, and of the others how many are found that must not be; by the encoder's cosine alone, and
where the words that carry meaning must be the same as well, which is what workers do.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from inference.engine import WordPieceText
from inference.engine.loading import load_embedder
from inference.engine.texts import Texts, Vectors, vectors_of
from inference.engine.work import Sampling
from inference.gist import gist

ENCODER = Path("var/models/all-minilm-l6-v2")
PAIRS = Path(__file__).parent / "pairs"
THRESHOLDS = (0.70, 0.80, 0.85, 0.90, 0.925, 0.95, 0.97, 0.98, 0.99)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two questions, whether they ask the same, and what is thought of it."""

    one: str
    other: str
    same: bool
    cosine: float
    alike: bool


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--misses", action="store_true", help="print what was taken wrongly")
    options = arguments.parse_args()
    for name in ("questions", "unseen"):
        pairs = list(_judged(PAIRS / f"{name}.txt", options.threads))
        same, other = [[each for each in pairs if each.same is is_so] for is_so in (True, False)]
        write(f"\n{name}: {len(same)} pairs that ask the same, {len(other)} that do not")
        write("threshold  cosine alone: found  wrongly    and the words: found  wrongly")
        for threshold in THRESHOLDS:
            near = [each for each in pairs if each.cosine >= threshold]
            alike = [each for each in near if each.alike]
            write(f"{threshold:9.3f}  {_shares(near, same, other)}  {_shares(alike, same, other)}")
        if options.misses:
            for each in pairs:
                if each.alike and not each.same:
                    write(f"wrongly: {each.cosine:.3f} {each.one!r} {each.other!r}")


def write(line: str) -> None:
    """A line of the result."""
    sys.stdout.write(f"{line}\n")


def _shares(found: list[Pair], same: list[Pair], other: list[Pair]) -> str:
    right = sum(each.same for each in found)
    wrong = len(found) - right
    return f"{right:6} {right / len(same):6.1%} {wrong:5} {wrong / len(other):6.1%}"


def _judged(path: Path, threads: int) -> Iterator[Pair]:
    lines = path.read_text().splitlines()
    rows = [[each.strip() for each in line.split("|")] for line in lines if line[:1] != "#"]
    texts = [each for row in rows for each in row]
    vectors = _vectors(texts, threads)
    for at, (one, same, other) in enumerate(rows):
        mine, *theirs = vectors[3 * at : 3 * at + 3]
        for text, vector, is_so in zip((same, other), theirs, (True, False), strict=True):
            yield Pair(one, text, is_so, float(mine @ vector), gist(one) == gist(text))


def _vectors(texts: list[str], threads: int) -> Vectors:
    reader, embedder = WordPieceText(ENCODER), load_embedder(ENCODER, threads=threads)
    rows = [tuple(reader.encode(text)) for text in texts]
    embedder.submit(
        Texts(
            id="pairs",
            tenant="1",
            prompt=tuple(token for row in rows for token in row),
            lengths=tuple(map(len, rows)),
            sampling=Sampling(max_tokens=1),
        )
    )
    while not (ends := embedder.step()):
        pass
    return vectors_of(ends[0].text, count=len(texts))


if __name__ == "__main__":
    main()
