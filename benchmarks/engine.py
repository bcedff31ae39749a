"""Tokens a second of the engine itself, beside llama.cpp and transformers with the same model.

  .venv/bin/python benchmarks/engine.py                        everything, three rounds
  .venv/bin/python benchmarks/engine.py --rivals               the engine alone
  .venv/bin/python benchmarks/engine.py --streams 16 --record

Rounds alternate: for each number of streams the engine, then each rival, then again; the best round
of each side counts. Prompts of about 50 tokens that differ, the same for all; answers of a fixed
length, greedy. The engine's tokens/s count from the last stream's first token to the first stream's
last: all streams decode together then; the rivals' are timed from when all prompts are read. The
step is the time between two publications in that span. Drafts are off, except in the row of one
stream that says its prompt again, where the rival decodes as always. Prefill is one prompt, alone.
A rival's process is stopped while it is not its turn. llama.cpp is compiled once, into var/rivals.

On a machine with other work, wall clocks compare little but who yields: --clock cpu --threads 1
counts seconds of CPU time on one thread instead, for all sides.
"""

import argparse
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks.rivals import building
from benchmarks.rivals.process import Rival
from inference.engine import (
    Delta,
    Engine,
    Manifest,
    Sampling,
    Text,
    Work,
    load_text,
    read_manifest,
)
from inference.engine.loading import load_runner

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
RIVALS: dict[str, Callable[[int, str], Rival]] = {
    "llama.cpp": building.llama_cpp,
    "transformers": building.transformers,
}
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


REPEAT = (
    "Repeat this text word for word.\n\n"
    "The engine turns prompts into tokens, many at a time, in one thread. Each step decodes every "
    "running request, then fills up to a token budget with chunks of waiting prompts, so that a "
    "long prompt never stalls the others. A prefix that an organization has sent before is copied "
    "from the cache instead of being computed again."
)


class Endless:
    """A model's text without an end, so that each answer has the length asked for."""

    eos: frozenset[int] = frozenset()

    def __init__(self, text: Text) -> None:
        self.context = text.context
        self.pieces = text.pieces
        self.knows_tools = text.knows_tools
        self.encode = text.encode
        self.chat = text.chat
        self.stream = text.stream


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

    def __init__(
        self, folder: Path, *, slots: int, threads: int, clock: str, drafts: int = 0
    ) -> None:
        self._clock = time.process_time if clock == "cpu" else time.perf_counter
        self.manifest = read_manifest(folder)
        self.text = Endless(load_text(folder))
        runner = load_runner(folder, self.manifest, slots=slots, threads=threads)
        self._engine = Engine(runner, self.text, drafts=drafts)
        self._asked = 0
        self._published: list[tuple[float, Sequence[Delta]]] = []
        Thread(target=self._engine.run, args=(self._publish,), daemon=True).start()

    def decode(self, streams: int, tokens: int) -> Round:
        """All streams at once."""
        return self._decode(self.prompts(streams), tokens)

    def repeat(self, tokens: int) -> Round:
        """One stream that says its prompt again."""
        return self._decode([self.repeating()], tokens)

    def repeating(self) -> list[int]:
        """A prompt that asks for its own words."""
        return self.text.chat([{"role": "user", "content": REPEAT}])

    def _decode(self, prompts: list[list[int]], tokens: int) -> Round:
        streams = len(prompts)
        start = self._run(prompts, tokens)
        first: dict[str, float] = {}
        last: dict[str, float] = {}
        for at, deltas in self._published:
            for delta in deltas:
                first.setdefault(delta.id, at)
                last[delta.id] = at
        begin, end = max(first.values()), min(last.values())
        span = [(at, deltas) for at, deltas in self._published if begin <= at <= end]
        if sum(len(deltas) for _, deltas in span) < 20:
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
        prompt = self.long_prompt(tokens)
        start = self._run([prompt], 1)
        return len(prompt) / (self._published[-1][0] - start)

    def prompts(self, streams: int) -> list[list[int]]:
        """As many as there are streams, all different."""
        return [self._prompt(number) for number in range(streams)]

    def long_prompt(self, tokens: int) -> list[int]:
        """One that the cache has not seen: words in an order of its own each time."""
        self._asked += 1
        order = np.random.default_rng(self._asked).choice(WORDS, tokens)
        return self.text.encode(" ".join(order))[:tokens]

    def _prompt(self, number: int) -> list[int]:
        chosen = np.random.default_rng(number).choice(WORDS, 6)
        question = f"{number}. Write a long story with these words: {', '.join(chosen)}."
        return self.text.chat([{"role": "user", "content": question}])

    def _run(self, prompts: list[list[int]], tokens: int) -> float:
        """Submit, wait for the end; when it began."""
        self._published.clear()
        start = self._clock()
        for number, prompt in enumerate(prompts):
            self._engine.submit(Work(str(number), "bench", tuple(prompt), Sampling(tokens)))
        while self._engine.stats().running + self._engine.stats().waiting:
            time.sleep(0.01)
        return start

    def _publish(self, deltas: Sequence[Delta]) -> None:
        self._published.append((self._clock(), deltas))


@dataclass(slots=True)
class Results:
    """The best of each measure, of the engine and of each rival by name."""

    rounds: dict[int, Round] = field(default_factory=dict)
    repeat: Round | None = None
    prefills: dict[int, float] = field(default_factory=dict)
    rival_rounds: dict[tuple[str, int], float] = field(default_factory=dict)
    rival_prefills: dict[tuple[str, int], float] = field(default_factory=dict)
    rival_repeats: dict[tuple[str, int], float] = field(default_factory=dict)


def measure(
    bench: Bench, drafting: Bench, rivals: list[Rival], chosen: argparse.Namespace, bar: Progress
) -> Results:
    """Alternate the sides, round by round."""
    best = Results()
    total = chosen.rounds * (len(chosen.streams) + len(chosen.prefill) + 1) * (1 + len(rivals))
    task = bar.add_task("measuring", total=total)
    for _ in range(chosen.rounds):
        for streams in chosen.streams:
            bar.update(task, description=f"{streams} streams")
            one = bench.decode(streams, chosen.tokens)
            before = best.rounds.get(streams, one)
            best.rounds[streams] = max(before, one, key=lambda each: each.tokens_per_second)
            bar.advance(task)
            for rival in rivals:
                _keep(
                    best.rival_rounds,
                    (rival.name, streams),
                    rival.decode(bench.prompts(streams), chosen.tokens),
                )
                bar.advance(task)
        bar.update(task, description="1 stream that repeats its prompt")
        one = drafting.repeat(chosen.tokens)
        best.repeat = max(best.repeat or one, one, key=lambda each: each.tokens_per_second)
        bar.advance(task)
        for rival in rivals:
            rate = rival.decode([bench.repeating()], chosen.tokens)
            _keep(best.rival_repeats, (rival.name, 1), rate)
            bar.advance(task)
        for length in chosen.prefill:
            bar.update(task, description=f"prefill of {length}")
            _keep(best.prefills, length, bench.prefill(length))
            bar.advance(task)
            for rival in rivals:
                rate = rival.prefill(bench.long_prompt(length))
                _keep(best.rival_prefills, (rival.name, length), rate)
                bar.advance(task)
    return best


def _keep(best: dict[Any, float], key: object, value: float) -> None:
    best[key] = max(best.get(key, 0.0), value)


def table(manifest: Manifest, best: Results, rivals: list[Rival]) -> list[str]:
    """Markdown: a row for each number of streams and each prefill; how often a rival's."""
    names = [rival.name for rival in rivals]
    head = ["", "tokens/s", "first token, ms", "step p50, ms", "step p99, ms"]
    head += [column for name in names for column in (name, "ratio")]
    rows = [head, ["---"] * len(head)]
    for streams, one in best.rounds.items():
        rows.append(_row(f"{streams} streams", one))
        rows[-1] += _beside(names, best.rival_rounds, streams, one.tokens_per_second)
    if best.repeat is not None:
        rows.append(_row("1 stream, with drafts, that repeats its prompt", best.repeat))
        rows[-1] += _beside(names, best.rival_repeats, 1, best.repeat.tokens_per_second)
    for length, rate in best.prefills.items():
        row = [f"prefill of {length}", f"{rate:.0f}", "", "", ""]
        rows.append(row + _beside(names, best.rival_prefills, length, rate))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [f"{manifest.name}, {manifest.quantization}:", "", *lines]


def _row(name: str, one: Round) -> list[str]:
    times = (one.first_token, one.step_p50, one.step_p99)
    return [name, f"{one.tokens_per_second:.0f}", *(f"{value * 1e3:.1f}" for value in times)]


def _beside(
    names: list[str], rates: dict[tuple[str, int], float], key: int, ours: float
) -> list[str]:
    return [
        cell
        for name in names
        for cell in (f"{rates[name, key]:.0f}", f"{ours / rates[name, key]:.2f}")
    ]


def record(title: str, lines: list[str], *, now: datetime, threads: int) -> None:
    """Append to RESULTS.md, with date, machine and command."""
    command = shlex.join([".venv/bin/python", *sys.argv])
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    with RESULTS.open("a") as file:
        file.write(
            f"\n## {title}, {now:%Y-%m-%d %H:%M} UTC\n\n`{command}`; {os.cpu_count()} CPUs "
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
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 16, 32])
    parser.add_argument("--tokens", type=int, default=192, help="a stream (default: 192)")
    parser.add_argument("--prefill", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--rounds", type=int, default=3, help="the best counts (default: 3)")
    parser.add_argument(
        "--rivals",
        nargs="*",
        choices=sorted(RIVALS),
        default=sorted(RIVALS),
        help="whom to measure beside it (default: all; none: the engine alone)",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: seconds of CPU time, for a machine with other work; with --threads 1",
    )
    parser.add_argument("--record", action="store_true", help=f"append to {RESULTS.name}")
    return parser.parse_args()


def main() -> None:
    """Measure, print, record."""
    chosen = options()
    console = Console()
    given = {"slots": max(chosen.streams), "threads": chosen.threads, "clock": chosen.clock}
    bench, drafting = Bench(chosen.model, **given), Bench(chosen.model, **given, drafts=8)
    with ExitStack() as stack:
        rivals = [
            stack.enter_context(RIVALS[name](chosen.threads, chosen.clock))
            for name in chosen.rivals
        ]
        with Progress(console=console, transient=True) as bar:
            best = measure(bench, drafting, rivals, chosen, bar)
    lines = table(bench.manifest, best, rivals)
    console.print("\n".join(lines), markup=False, soft_wrap=True)
    if chosen.record:
        record("Engine", lines, now=datetime.now(UTC), threads=chosen.threads)


if __name__ == "__main__":
    main()
