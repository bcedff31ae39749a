"""Whether anything grows: half an hour of mixed load, and the slope of every process's resources.

Clients of three organizations stream, hang up, come back, cancel, send batches and repeat
themselves, over HTTP and WebSockets, on a platform of its own (the drill's load, without its
kills). Memory, threads and file descriptors of web, worker and beat are read every ten seconds.
Before that four times as many clients fill the pools of threads and connections, which have their
bounds, as far as they go.
Answers that are not what they must be are told, and fail it as growth does.
A slope is flat where it lies within three standard errors of nothing, or grows by less than 2 % of
the mean an hour.

  .venv/bin/python benchmarks/soak.py                30 minutes
  .venv/bin/python benchmarks/soak.py --minutes 5    a look
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

import psutil  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402

from config.drill.kills import BEAT, WEB, WORKER  # noqa: E402
from config.drill.load import Crowd  # noqa: E402
from config.stack.apart import Stack, running  # noqa: E402

_EVERY = 10.0
_END_SECONDS = 300.0
_WARMING_TIMES = 4
_RESULTS = ROOT / "benchmarks" / "RESULTS.md"
Series = dict[tuple[str, str], list[tuple[float, float]]]
"""By process and resource: when, in seconds, and how much."""


def main() -> int:
    """Load, look, reckon."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--warming", type=float, default=5, help="minutes before (5)")
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/RESULTS.md")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="platform-soak-") as folder:
        models = {"MODELS_DIR": f"{folder}/models", "DEFAULT_MODEL": "echo"}
        with running(Path(folder), LOG_LEVEL="WARNING", **models) as stack:
            series, requests, problems = asyncio.run(soak(stack, options))
    lines = [f"| requests | {requests:,} | | |", *(line(*each) for each in sorted(series.items()))]
    table = "\n".join(["| what | mean | slope an hour | |", "|---|---|---|---|", *lines])
    console.print(table)
    if options.record:
        record(table)
    for problem in problems[:20]:
        console.print(f"  {problem}", markup=False)
    return 1 if problems or "grows" in table else 0


async def soak(stack: Stack, options: argparse.Namespace) -> tuple[Series, int, list[str]]:
    """Samples of every process, under load; how many requests there were, and what was wrong with
    their answers."""
    keys = {slug: stack.organization(slug) for slug in ("soak-a", "soak-b", "soak-c")}
    warming = Crowd(stack.url, keys, seed=2, size=_WARMING_TIMES * options.clients)
    load = asyncio.create_task(warming.run())
    Console(stderr=True).print(f"Warming up for {options.warming:g} minutes …")
    await asyncio.sleep(options.warming * 60)
    problems = await warming.come_to_its_end(load, _END_SECONDS)
    crowd = Crowd(stack.url, keys, seed=1, size=options.clients)
    load = asyncio.create_task(crowd.run())
    series: Series = defaultdict(list)
    began = time.monotonic()
    for _ in track(range(int(options.minutes * 60 / _EVERY)), description="Soaking"):
        await asyncio.sleep(_EVERY)
        for victim in (WEB, WORKER, BEAT):
            process = stack.find(*victim.words)
            for name, much in look(process).items():
                series[victim.name, name].append((time.monotonic() - began, much))
    problems += await crowd.come_to_its_end(load, _END_SECONDS)
    for each in (*warming.heard, *crowd.heard):
        if each.problem:
            problems.append(f"{each.habit} {each.request}: {each.problem}")
    return series, len(crowd.heard), problems


def look(process: psutil.Process) -> dict[str, float]:
    """What it takes up."""
    with process.oneshot():
        return {
            "MiB": process.memory_full_info().uss / 2**20,
            "threads": process.num_threads(),
            "descriptors": process.num_fds(),
        }


def line(key: tuple[str, str], samples: list[tuple[float, float]]) -> str:
    """A row: the mean, the slope an hour with its standard error, and whether that is flat."""
    times, values = [at / 3600 for at, _ in samples], [much for _, much in samples]
    slope, error = regression(times, values)
    mean = statistics.fmean(values)
    flat = abs(slope) <= 3 * error or slope <= 0.02 * mean
    said = "flat" if flat else "grows"
    return f"| {' '.join(key)} | {mean:,.1f} | {slope:+,.2f} ± {error:,.2f} | {said} |"


def regression(times: list[float], values: list[float]) -> tuple[float, float]:
    """Least squares: the slope, and its standard error."""
    slope, intercept = statistics.linear_regression(times, values)
    rests = [value - slope * at - intercept for at, value in zip(times, values, strict=True)]
    middle = statistics.fmean(times)
    spread = sum((at - middle) ** 2 for at in times)
    variance = sum(rest**2 for rest in rests) / max(1, len(rests) - 2)
    return slope, (variance / spread) ** 0.5


def record(table: str) -> None:
    """Append it with the command, the date and the machine's load."""
    command = " ".join([".venv/bin/python benchmarks/soak.py", *sys.argv[1:]])
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    with _RESULTS.open("a") as file:
        file.write(
            f"\n## Soak, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n\n"
            f"`{command}`; {os.cpu_count()} CPUs, load average {load}.\n\n{table}\n"
        )


if __name__ == "__main__":
    sys.exit(main())
