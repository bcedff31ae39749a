"""What a decode step is made of, beside what this machine's memory and arithmetic would allow.

  .venv/bin/python benchmarks/roofline.py            1, 8 and 32 streams that hold 150 tokens each
  .venv/bin/python benchmarks/roofline.py --threads 2 --record

Each part counts by the fastest tenth of its steps, so other work distorts little. The
floors: reading every weight that a step needs once, and the keys and values of its streams, at the
speed at which one thread reads memory here; and two operations a weight and stream, at the speed of
its own linear layers over 192 rows, where each weight read serves them all.
"""

import argparse
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.engine import ROOT, record
from inference.engine import read_manifest
from inference.engine.native import NativeRunner
from inference.engine.native.runner import PARTS

LENGTH = 150
STEPS = 80
WITH_SCALES = 1.03
"""Bytes a weight: a scale of two bytes stands beside each 64 of one."""


def fastest(run: Callable[[], object], times: int = 7) -> float:
    """Seconds of CPU time."""
    found = []
    for _ in range(times):
        begin = time.thread_time()
        run()
        found.append(time.thread_time() - begin)
    return min(found)


def memory_speed() -> float:
    """Bytes a second that one thread reads."""
    values = np.ones(64 << 20, np.float32)
    return values.nbytes / fastest(values.max)


def step(runner: NativeRunner, streams: int) -> dict[str, float]:
    """Seconds of a decode step by part."""
    for slot in range(streams):
        runner.prefill(slot, range(100, 100 + LENGTH), 0)
    found: dict[str, list[float]] = {part: [] for part in PARTS}
    for number in range(STEPS):
        runner.decode(range(streams), [5] * streams, [LENGTH + number % 10] * streams)
        for part, seconds in runner.seconds().items():
            found[part].append(seconds)
    return {part: float(np.quantile(seconds, 0.1)) for part, seconds in found.items()}


def arithmetic_speed(runner: NativeRunner, weights: int) -> float:
    """Operations a second in the linear layers of many rows, where memory does not count."""
    rows, best = 192, 1e9
    for _ in range(5):
        runner.prefill(0, range(100, 100 + rows), 0)
        best = min(best, runner.seconds()["linear layers"])
    return 2 * rows * weights / best


def table(folder: Path, threads: int) -> list[str]:
    """Markdown: floors and parts, in ms, for each number of streams."""
    manifest = read_manifest(folder)
    runner = NativeRunner(folder, slots=32, context=512, threads=threads)
    shape, memory = runner.shape, memory_speed() * threads
    head = shape.vocabulary * shape.hidden
    arithmetic = arithmetic_speed(runner, manifest.parameters - head)
    token_bytes = shape.layers * 2 * shape.groups * shape.head_size * 2
    lines = [
        f"{threads} threads read {memory / 1e9:.0f} GB/s and do {arithmetic / 1e9:.0f} thousand "
        "million operations on bytes a second.",
        "",
        "| streams | memory floor, ms | arithmetic floor, ms | "
        + " | ".join((*PARTS, "sum"))
        + " |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for streams in (1, 8, 32):
        parts = step(runner, streams)
        floor = (WITH_SCALES * manifest.parameters + streams * LENGTH * token_bytes) / memory
        cells = [floor, 2 * streams * manifest.parameters / arithmetic]
        cells += [parts[name] for name in PARTS]
        cells.append(sum(parts.values()))
        lines.append(f"| {streams} | " + " | ".join(f"{c * 1e3:.1f}" for c in cells) + " |")
    return lines


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, default=ROOT / "var" / "models" / "smollm2-135m-instruct"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    chosen = parser.parse_args()
    lines = table(chosen.model, chosen.threads)
    print("\n".join(lines))  # noqa: T201
    if chosen.record:
        record("Roofline", lines, now=datetime.now(UTC), threads=chosen.threads)


if __name__ == "__main__":
    main()
