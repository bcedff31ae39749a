"""Whether drafts could be verified in one pass to the same text, and whether that would pay.

  .venv/bin/python benchmarks/speculation.py
  .venv/bin/python benchmarks/speculation.py --tokens 300 --record

A greedy answer that repeats its prompt is decoded token by token. Then the end of each of its
beginnings is run again as one chunk after the very same cache, as a verification would run it: how
often the last logits are the same bits, how often the likeliest token is the same, and how far they
differ. Drafts are by prompt look-up: what followed the last two tokens where they stood before.
The gain counts each pass at what such a chunk takes, and the drafts that agree with the answer.
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

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from inference.engine import load_text, read_manifest
from inference.engine.onnx import OnnxRunner

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
CHUNK = 32
DRAFT = 4
"""Tokens of a draft; its pass runs one more."""
TASK = (
    "Repeat this text word for word.\n\n"
    "The engine turns prompts into tokens, many at a time, in one thread. Each step decodes every "
    "running request, then fills up to a token budget with chunks of waiting prompts, so that a "
    "long prompt never stalls the others. A prefix that an organization has sent before is copied "
    "from the cache instead of being computed again."
)


@dataclass(frozen=True, slots=True)
class Decoded:
    """An answer token by token: its tokens, the logits before each, the seconds of each step."""

    tokens: list[int]
    logits: NDArray[np.float32]
    seconds: list[float]


def decode(runner: OnnxRunner, prompt: Sequence[int], count: int) -> Decoded:
    """Greedy, in slot 0, which keeps it."""
    for at in range(0, len(prompt), CHUNK):
        row = runner.prefill(0, prompt[at : at + CHUNK], at)[0].copy()
    tokens, rows, seconds = [int(row.argmax())], [row], list[float]()
    while len(tokens) < count:
        start = time.perf_counter()
        row = runner.decode([0], tokens[-1:], [len(prompt) + len(tokens) - 1])[0].copy()
        seconds.append(time.perf_counter() - start)
        rows.append(row)
        tokens.append(int(row.argmax()))
    return Decoded(tokens, np.stack(rows), seconds)


def verify(
    runner: OnnxRunner, prompt: Sequence[int], done: Decoded
) -> tuple[NDArray[np.float32], list[float]]:
    """The logits before the tokens from the sixth on, each by a chunk; seconds of each."""
    rows, seconds = [], list[float]()
    for end in range(DRAFT + 1, len(done.tokens)):
        place = len(prompt) + end - DRAFT - 1
        runner.copy(0, 1, place)
        start = time.perf_counter()
        row = runner.prefill(1, done.tokens[end - DRAFT - 1 : end], place)[0]
        seconds.append(time.perf_counter() - start)
        rows.append(row.copy())
    return np.stack(rows), seconds


def accepted(prompt: Sequence[int], tokens: Sequence[int]) -> list[int]:
    """For each pass, how many drafted tokens agree with the answer; -1 where none was drafted."""
    known, passes, at = [*prompt, tokens[0]], list[int](), 1
    while at < len(tokens):
        draft = look_up(known)
        agree = 0
        while agree < min(len(draft), len(tokens) - at - 1) and draft[agree] == tokens[at + agree]:
            agree += 1
        passes.append(agree if draft else -1)
        known += tokens[at : at + agree + 1]
        at += agree + 1
    return passes


def look_up(tokens: Sequence[int]) -> Sequence[int]:
    """What followed the last two tokens when they last stood there before."""
    for at in range(len(tokens) - 3, -1, -1):
        if tokens[at : at + 2] == tokens[-2:]:
            return tokens[at + 2 : at + 2 + DRAFT]
    return []


def report(runner: OnnxRunner, prompt: Sequence[int], count: int) -> list[str]:
    """Markdown."""
    done = decode(runner, prompt, count)
    chunked, passes = verify(runner, prompt, done)
    single = done.logits[DRAFT + 1 :]
    choices = chunked.argmax(axis=-1) == single.argmax(axis=-1)
    step, drafted = statistics.median(done.seconds), statistics.median(passes)
    found = accepted(prompt, done.tokens)
    spent = sum(step if agree < 0 else drafted for agree in found)
    rows = [
        ("logits of the same bits", f"{(chunked == single).all(axis=-1).mean():.1%}"),
        ("the same likeliest token", f"{choices.sum()} of {len(choices)}"),
        ("largest difference of a logit", f"{np.abs(chunked - single).max():.3g}"),
        ("a step, ms", f"{step * 1e3:.1f}"),
        (f"a pass of {DRAFT + 1} tokens, ms", f"{drafted * 1e3:.1f}"),
        ("tokens a pass", f"{len(done.tokens) / len(found):.2f}"),
        ("gain, were the text the same", f"{(len(done.tokens) - 1) * step / spent:.2f} times"),
    ]
    return ["| measure | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


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
    parser.add_argument("--tokens", type=int, default=150, help="of the answer (default: 150)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--record", action="store_true", help=f"append to {RESULTS.name}")
    return parser.parse_args()


def main() -> None:
    """Measure, print, record."""
    chosen = options()
    manifest, text = read_manifest(chosen.model), load_text(chosen.model)
    model = chosen.model / "model.onnx"
    runner = OnnxRunner(model, slots=2, context=manifest.context, threads=chosen.threads)
    prompt = text.chat([{"role": "user", "content": TASK}])
    lines = [
        f"{manifest.name}, {manifest.quantization}:",
        "",
        *report(runner, prompt, chosen.tokens),
    ]
    Console().print("\n".join(lines), markup=False)
    if chosen.record:
        command = shlex.join([".venv/bin/python", *sys.argv])
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        with RESULTS.open("a") as file:
            file.write(
                f"\n## Speculation, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n\n`{command}`; "
                f"{os.cpu_count()} CPUs ({platform.machine()}), load average {load}.\n\n"
            )
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
