"""What preparing cost in quality and what it gained, measured on a text that ships."""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.engine.runner import Runner

FILE = "report.json"
MOST = 0.03
"""By which share perplexity may rise before a model is not published."""

Logits = tuple[list[int], NDArray[np.float32]]
"""Tokens, and the logits each was predicted from."""


@dataclass(frozen=True, slots=True)
class Quality:
    """`agreement` is the share of positions whose likeliest token is full precision's; speeds are
    decoded tokens a second, of one and of eight streams, where the model was prepared; 0 where it
    does not run there."""

    reference_perplexity: float
    perplexity: float
    agreement: float
    bytes: int
    tokens_per_second: float
    tokens_per_second_of_eight: float

    @property
    def rise(self) -> float:
        """Of perplexity, as a share."""
        return self.perplexity / self.reference_perplexity - 1

    def rows(self) -> list[tuple[str, str]]:
        """As a table has them: what, and how much."""
        rows = [
            ("perplexity in full precision", f"{self.reference_perplexity:.2f}"),
            ("perplexity", f"{self.perplexity:.2f} ({self.rise:+.1%}; at most {MOST:+.0%})"),
            ("same likeliest token as full precision", f"{self.agreement:.1%}"),
            ("size", f"{self.bytes / 1e6:.0f} MB"),
        ]
        if self.tokens_per_second:
            one, eight = self.tokens_per_second, self.tokens_per_second_of_eight
            rows += [("tokens/s, one stream", f"{one:.0f}")]
            rows += [("tokens/s, eight streams", f"{eight:.0f}")]
        return rows


def compare(
    reference: Logits, made: Logits, runner: Runner | None, files: Iterable[Path]
) -> Quality:
    """Of the model that `runner` runs (eight slots; None: it can't be run here), whose logits of
    the measured text are `made`, and which lies in `files`.
    """
    agreement = (reference[1].argmax(axis=-1) == made[1].argmax(axis=-1)).mean()
    size = sum(file.stat().st_size for file in files)
    one, eight = _speeds(runner) if runner is not None else (0.0, 0.0)
    return Quality(perplexity(reference), perplexity(made), float(agreement), size, one, eight)


def perplexity(predicted: Logits) -> float:
    """exp of the mean loss in nats a token."""
    tokens, logits = predicted
    losses = []
    for row, token in zip(logits, tokens, strict=True):
        largest = row.max()
        losses.append(largest + np.log(np.exp(row - largest).sum()) - row[token])
    return float(np.exp(np.mean(losses)))


def write_quality(folder: Path, quality: Quality) -> None:
    """Beside the model."""
    (folder / FILE).write_text(json.dumps(asdict(quality), indent=2) + "\n")


def read_quality(folder: Path) -> Quality | None:
    """None where a model came without a report."""
    try:
        return Quality(**json.loads((folder / FILE).read_text()))
    except FileNotFoundError:
        return None


def _speeds(runner: Runner, steps: int = 24) -> tuple[float, float]:
    """The median step of so many, of one and of eight streams."""
    found = []
    for streams in (1, 8):
        slots, times = range(streams), []
        for slot in slots:
            runner.prefill(slot, [5], 0)
        for position in range(1, steps):
            begin = time.perf_counter()
            runner.decode(slots, [5] * streams, [position] * streams)
            times.append(time.perf_counter() - begin)
        found.append(streams / float(np.median(times)))
    return found[0], found[1]
