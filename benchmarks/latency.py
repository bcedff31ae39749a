"""Who waits how long: prefixes, arrivals, neighbours, and what the engine costs beside its model.

  .venv/bin/python benchmarks/latency.py
  .venv/bin/python benchmarks/latency.py --only arrivals neighbour --rounds 5 --record

Each figure compares two sides that alternate, round by round, in one engine of one process:

prefix     time to the first token of a prompt whose first 1,000 tokens its organization has in the
           cache, against that of one it has not
arrivals   time between tokens of 8 streams, while prompts of 1,500 tokens of another organization
           keep arriving, against the same without
neighbour  tokens a second of one stream beside an organization that keeps 64 requests queued,
           against the same alone; and its time to the first token
overhead   what a step of 32 streams spends outside the model's forward pass: sampling, texts,
           scheduling
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks.engine import Endless, record
from inference.engine import (
    Engine,
    Logits,
    Sampling,
    Work,
    load_text,
    read_manifest,
)
from inference.engine.loading import load_runner
from inference.engine.runner import RowRunner

ROOT = Path(__file__).resolve().parents[1]
OVERHEADS = {
    "greedy": Sampling(10_000),
    "top-p": Sampling(10_000, temperature=1.0, top_p=0.9),
    "top-p, penalties": Sampling(
        10_000, temperature=1.0, top_p=0.9, presence_penalty=0.5, repetition_penalty=1.1
    ),
}


class Timed:
    """A runner whose time is taken."""

    def __init__(self, runner: Any) -> None:
        if isinstance(runner, RowRunner):
            self.most_rows, self.run = runner.most_rows, self._run
        self._runner = runner
        self.slots, self.shelves, self.context = runner.slots, runner.shelves, runner.context
        self.copy, self.release = runner.copy, runner.release
        self.seconds = 0.0

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Logits:
        with self._timed():
            return cast("Logits", self._runner.prefill(slot, tokens, start))

    def decode(
        self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]
    ) -> Logits:
        with self._timed():
            return cast("Logits", self._runner.decode(slots, tokens, positions))

    def _run(self, *rows: Sequence[int]) -> Logits:
        with self._timed():
            return cast("RowRunner", self._runner).run(*rows)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


class Bench:
    """An engine stepped by hand, so that no thread but the model's own takes part."""

    def __init__(self, folder: Path, *, threads: int) -> None:
        self.manifest = read_manifest(folder)
        self._runner = Timed(load_runner(folder, self.manifest, slots=32, threads=threads))
        self._engine = Engine(self._runner, Endless(load_text(folder)))
        self._draws = np.random.default_rng(5)
        self._names = 0

    def prefix(self) -> tuple[float, float]:
        """Seconds to the first token: of a cold prompt, of a warm one."""
        stem = self._tokens(1000)
        return self._first(stem + self._tokens(20)), self._first(stem + self._tokens(20))

    def arrivals(self, *, arriving: bool, steps: int = 120) -> list[float]:
        """Seconds between tokens of 8 streams."""
        streams = [self._submit(self._tokens(50), 10_000) for _ in range(8)]
        self._step_until(streams)
        gaps, guest, last = list[float](), "", time.perf_counter()
        for _ in range(steps):
            if arriving and not guest:
                guest = self._submit(self._tokens(1500), 8, tenant="guests")
            deltas = self._engine.step()
            now = time.perf_counter()
            if {delta.id for delta in deltas} & set(streams):
                gaps.append(now - last)
                last = now
            if any(delta.id == guest and delta.outcome for delta in deltas):
                guest = ""
        self._clear()
        return gaps

    def neighbour(self, *, queued: int, tokens: int = 60) -> tuple[float, float]:
        """One stream's tokens a second after its first, and seconds to that."""
        others = {self._submit(self._tokens(50), 100, tenant="many") for _ in range(queued)}
        for _ in range(60 if queued else 0):
            self._engine.step()
        start = time.perf_counter()
        one, first, count = self._submit(self._tokens(50), 10_000), 0.0, 0
        while count <= tokens:
            for delta in self._engine.step():
                if delta.id == one:
                    first = first or time.perf_counter()
                    count += len(delta.tokens)
                elif delta.outcome and delta.id in others:
                    others.remove(delta.id)
                    others.add(self._submit(self._tokens(50), 100, tenant="many"))
        end = time.perf_counter()
        self._clear()
        return (count - 1) / (end - first), first - start

    def overhead(self, sampling: Sampling, *, steps: int = 60) -> float:
        """The share of a step of 32 streams that passes outside the runner."""
        self._step_until([self._submit(self._tokens(50), sampling) for _ in range(32)])
        self._runner.seconds, start = 0.0, time.perf_counter()
        for _ in range(steps):
            self._engine.step()
        spent = time.perf_counter() - start
        self._clear()
        return 1 - self._runner.seconds / spent

    def _tokens(self, count: int) -> list[int]:
        return [int(token) for token in self._draws.integers(1000, 20_000, count)]

    def _submit(self, prompt: list[int], sampling: Sampling | int, *, tenant: str = "bench") -> str:
        self._names += 1
        sampling = Sampling(sampling) if isinstance(sampling, int) else sampling
        self._engine.submit(Work(str(self._names), tenant, tuple(prompt), sampling))
        return str(self._names)

    def _first(self, prompt: list[int]) -> float:
        start = time.perf_counter()
        name = self._submit(prompt, 1)
        self._step_until([name])
        return time.perf_counter() - start

    def _step_until(self, names: Sequence[str]) -> None:
        """Until each has a token."""
        left = set(names)
        while left:
            left -= {delta.id for delta in self._engine.step() if delta.tokens}

    def _clear(self) -> None:
        for number in range(self._names + 1):
            self._engine.cancel(str(number))
        self._engine.step()


def prefix(bench: Bench, rounds: int) -> list[str]:
    """Warm against cold."""
    cold, warm = zip(*(bench.prefix() for _ in range(rounds)), strict=True)
    return [
        _row("first token, 1,000-token prefix cold", statistics.median(cold) * 1e3, "ms"),
        _row("the same, warm", statistics.median(warm) * 1e3, "ms"),
        _row("cold / warm", statistics.median(cold) / statistics.median(warm), "times", "≥ 8"),
    ]


def arrivals(bench: Bench, rounds: int) -> list[str]:
    """With arrivals against without."""
    without, during = list[float](), list[float]()
    for _ in range(rounds):
        without += bench.arrivals(arriving=False)
        during += bench.arrivals(arriving=True)
    calm, busy = (float(np.percentile(gaps, 99)) for gaps in (without, during))
    return [
        _row("between tokens of 8 streams, p50", statistics.median(without) * 1e3, "ms"),
        _row("the same, p99", calm * 1e3, "ms"),
        _row("p50 while 1,500-token prompts arrive", statistics.median(during) * 1e3, "ms"),
        _row("the same, p99", busy * 1e3, "ms"),
        _row("p99 with / without", busy / calm, "times", "≤ 2.5"),
    ]


def neighbour(bench: Bench, rounds: int) -> list[str]:
    """Beside a crowd against alone."""
    alone, beside = [], []
    for _ in range(rounds):
        alone.append(bench.neighbour(queued=0))
        beside.append(bench.neighbour(queued=64))
    (speed, first), (slow, later) = (
        (statistics.median(rate for rate, _ in side), statistics.median(wait for _, wait in side))
        for side in (alone, beside)
    )
    return [
        _row("one stream alone", speed, "tokens/s"),
        _row("beside another organization's 64", slow, "tokens/s"),
        _row("keeps", slow / speed * 100, "%", "≥ 25"),
        _row("its first token alone", first * 1e3, "ms"),
        _row("its first token beside the 64", later * 1e3, "ms"),
    ]


def overhead(bench: Bench, rounds: int) -> list[str]:
    """Outside the forward pass."""
    shares: dict[str, list[float]] = {name: [] for name in OVERHEADS}
    for _ in range(rounds):
        for name, sampling in OVERHEADS.items():
            shares[name].append(bench.overhead(sampling))
    return [
        _row(
            f"outside the model, 32 streams, {name}",
            statistics.median(found) * 100,
            "%",
            "≤ 10" if name == "greedy" else "≤ 20",
        )
        for name, found in shares.items()
    ]


MEASURES: dict[str, Callable[[Bench, int], list[str]]] = {
    "prefix": prefix,
    "arrivals": arrivals,
    "neighbour": neighbour,
    "overhead": overhead,
}


def _row(name: str, value: float, unit: str, bar: str = "") -> str:
    return f"| {name} | {value:.3g} {unit} | {bar} |"


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=ROOT / "var" / "models" / "smollm2-135m-instruct",
        help="a folder that manage.py prepare_model made (default: %(default)s)",
    )
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--rounds", type=int, default=3, help="of each side (default: 3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    return parser.parse_args()


def main() -> None:
    """Measure, print, record."""
    chosen = options()
    console = Console()
    bench = Bench(chosen.model, threads=chosen.threads)
    lines = [
        f"{bench.manifest.name}, {bench.manifest.quantization}:",
        "",
        "| measure | value | bar |",
        "|---|---|---|",
    ]
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("measuring", total=len(chosen.only))
        bench.prefix()
        for name in chosen.only:
            bar.update(task, description=name)
            lines += MEASURES[name](bench, chosen.rounds)
            bar.advance(task)
    console.print("\n".join(lines), markup=False)
    if chosen.record:
        record("Latency", lines, now=datetime.now(UTC), threads=chosen.threads)


if __name__ == "__main__":
    main()
