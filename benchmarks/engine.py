"""Tokens a second of the engine itself: a prepared model, no web, no queue, no database.

  .venv/bin/python benchmarks/engine.py                    1, 8 and 32 streams of the default model
  .venv/bin/python benchmarks/engine.py --streams 16 --record

Each round submits its streams at once, prompts of about 50 tokens that differ,
answers of a fixed length. Tokens/s count from the last stream's first token to the first stream's
last: all streams decode together then. The step is the time between two publications in that span,
so its p99 is what a reader waits for his next token. Prefill is one prompt, alone.
"""

import argparse
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread

import numpy as np
from rich.console import Console
from rich.progress import Progress

from inference.engine import (
    Delta,
    Detokenizer,
    Engine,
    Manifest,
    Sampling,
    Text,
    Work,
    load_text,
    read_manifest,
)
from inference.engine.onnx import OnnxRunner

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
WORDS = [
    "river",
    "stone",
    "cloud",
    "engine",
    "paper",
    "window",
    "garden",
    "number",
    "letter",
    "winter",
    "music",
    "orange",
]


class Endless:
    """A model's text without an end, so that each answer has the length asked for."""

    eos: frozenset[int] = frozenset()

    def __init__(self, text: Text) -> None:
        self._text = text
        self.context = text.context

    def encode(self, text: str) -> list[int]:
        return self._text.encode(text)

    def chat(self, messages: Sequence[object]) -> list[int]:
        return self._text.chat(messages)  # type: ignore[arg-type]

    def stream(self) -> Detokenizer:
        return self._text.stream()


@dataclass(frozen=True, slots=True)
class Round:
    """One number of streams; times in seconds."""

    streams: int
    tokens_per_second: float
    first_token: float
    step_p50: float
    step_p99: float


class Bench:
    """An engine in a thread of its own, as in a worker, whose publications are timed."""

    def __init__(self, folder: Path, *, slots: int, threads: int) -> None:
        self.manifest = read_manifest(folder)
        self.text = Endless(load_text(folder))
        runner = OnnxRunner(
            folder / "model.onnx", slots=slots, context=self.manifest.context, threads=threads
        )
        self._engine = Engine(runner, self.text)
        self._published: list[tuple[float, Sequence[Delta]]] = []
        Thread(target=self._engine.run, args=(self._publish,), daemon=True).start()

    def decode(self, streams: int, tokens: int) -> Round:
        """All streams at once."""
        start = self._run([self._prompt(number) for number in range(streams)], tokens)
        first: dict[str, float] = {}
        last: dict[str, float] = {}
        for at, deltas in self._published:
            for delta in deltas:
                first.setdefault(delta.id, at)
                last[delta.id] = at
        begin, end = max(first.values()), min(last.values())
        span = [(at, deltas) for at, deltas in self._published if begin <= at <= end]
        if len(span) < 20:
            raise SystemExit("The streams hardly overlapped: raise --tokens.")
        steps = np.diff([at for at, _ in span])
        made = sum(len(delta.tokens) for _, deltas in span[1:] for delta in deltas)
        return Round(
            streams,
            made / (end - begin),
            statistics.median(first.values()) - start,
            float(np.percentile(steps, 50)),
            float(np.percentile(steps, 99)),
        )

    def prefill(self, tokens: int) -> float:
        """Tokens a second of one prompt of that length."""
        prompt = (self._prompt(0) * (tokens // 10))[:tokens]
        start = self._run([prompt], 1)
        return len(prompt) / (self._published[-1][0] - start)

    def _prompt(self, number: int) -> list[int]:
        chosen = np.random.default_rng(number).choice(WORDS, 6)
        question = f"{number}. Write a long story with these words: {', '.join(chosen)}."
        return self.text.chat([{"role": "user", "content": question}])

    def _run(self, prompts: list[list[int]], tokens: int) -> float:
        """Submit, wait for the end; when it began."""
        self._published.clear()
        start = time.perf_counter()
        for number, prompt in enumerate(prompts):
            self._engine.submit(Work(str(number), "bench", tuple(prompt), Sampling(tokens)))
        while self._engine.stats().running + self._engine.stats().waiting:
            time.sleep(0.01)
        return start

    def _publish(self, deltas: Sequence[Delta]) -> None:
        self._published.append((time.perf_counter(), deltas))


def table(manifest: Manifest, rounds: list[Round], prefills: dict[int, float]) -> list[str]:
    """Markdown: a row for each number of streams, and the prefills."""
    lines = [
        f"{manifest.name}, {manifest.quantization}:",
        "",
        "| streams | tokens/s | first token, ms | step p50, ms | step p99, ms |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.streams} | {one.tokens_per_second:.0f} | {one.first_token * 1e3:.0f} "
        f"| {one.step_p50 * 1e3:.1f} | {one.step_p99 * 1e3:.1f} |"
        for one in rounds
    ]
    prefill = ", ".join(f"{rate:.0f} at {length} tokens" for length, rate in prefills.items())
    return [*lines, "", f"Prefill, tokens/s: {prefill}."]


def record(lines: list[str], *, now: datetime, threads: int) -> None:
    """Append to RESULTS.md, with date, machine and command."""
    command = shlex.join([".venv/bin/python", *sys.argv])
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    with RESULTS.open("a") as file:
        file.write(
            f"\n## Engine, {now:%Y-%m-%d %H:%M} UTC\n\n`{command}`; {os.cpu_count()} CPUs "
            f"({platform.machine()}), {threads} threads, load average {load}.\n\n"
        )
        file.write("\n".join(lines) + "\n")


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
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=192, help="a stream (default: 192)")
    parser.add_argument("--prefill", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--rounds", type=int, default=3, help="the best counts (default: 3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--record", action="store_true", help=f"append to {RESULTS.name}")
    return parser.parse_args()


def main() -> None:
    """Measure, print, record."""
    chosen = options()
    console = Console()
    bench = Bench(chosen.model, slots=max(chosen.streams), threads=chosen.threads)
    rounds: list[Round] = []
    with Progress(console=console, transient=True) as bar:
        steps = chosen.rounds * (len(chosen.streams) + len(chosen.prefill))
        task = bar.add_task("measuring", total=steps)
        for streams in chosen.streams:
            tries = []
            for _ in range(chosen.rounds):
                bar.update(task, description=f"{streams} streams")
                tries.append(bench.decode(streams, chosen.tokens))
                bar.advance(task)
            rounds.append(max(tries, key=lambda one: one.tokens_per_second))
        prefills = {}
        for length in chosen.prefill:
            bar.update(task, description=f"prefill of {length}")
            prefills[length] = max(bench.prefill(length) for _ in range(chosen.rounds))
            bar.advance(task, chosen.rounds)
    lines = table(bench.manifest, rounds, prefills)
    console.print("\n".join(lines), markup=False)
    if chosen.record:
        record(lines, now=datetime.now(UTC), threads=chosen.threads)


if __name__ == "__main__":
    main()
