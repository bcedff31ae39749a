"""The isolation drill: many organizations at once through one platform, each with its own canary.

A platform of its own is started, with two workers, as many organizations as asked for, and as many
clients of each, who answer prompts whole, as events, over sockets, in background, in batches and by
OpenAI's API, keep files and responses, share idempotency keys, labels and cached prompts across
organizations, read what is theirs and reach for what is not, to read it and to change it. Some
organizations keep texts and cached answers, some nothing. An organization's canary stands in all
that it sends: prompts, labels, names. No answer, no key in Redis (searched midway and at the end)
and no row of any table of any schema may hold a canary of another's; what is sealed is opened with
its owner's keys.

Wrong is: another's canary, or success for another's thing (leak); any other answer to who reaches
for it than that there is none, where 408, 429, 503 and 504 decide nothing and are asked again, or
an error of the platform's own (unexpected); an answer that came to its end without its own canary
(missing); a client that broke or did not come to its end (dead). All of it is printed, and written
to --findings as JSON lines; --logs keeps what the platform logged meanwhile. Exits with 1 if there
is any, or if fewer than nine tenths of the reaches were decided.

  .venv/bin/python benchmarks/isolation.py                      20 organizations of 50 clients, 60 s
  .venv/bin/python benchmarks/isolation.py --seconds 20 --organizations 4 --clients 10
  .venv/bin/python benchmarks/isolation.py --pause 0 --record   without a pause; into RESULTS.md
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

from rich.console import Console  # noqa: E402

from benchmarks.canaries.drill import Drill  # noqa: E402
from benchmarks.canaries.findings import Findings, Kind  # noqa: E402
from benchmarks.canaries.platform import Tenant, make  # noqa: E402
from config.stack.apart import Stack, running  # noqa: E402

_RESULTS = ROOT / "benchmarks" / "RESULTS.md"


def main() -> int:
    """0 if enough was seen, and nothing where it does not belong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--organizations", type=int, default=20)
    parser.add_argument("--clients", type=int, default=50, help="of each organization")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pause", type=float, default=10, help="of a client, in the mean (10 s)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--findings", type=Path, help="a file for what is wrong, as JSON lines")
    parser.add_argument("--logs", type=Path, help="a folder for the platform's logs")
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md, if whole")
    options = parser.parse_args()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="platform-isolation-") as folder:
        settings = {
            "DEFAULT_MODEL": "echo",
            "FORMATION": f"worker={options.workers}",
            "LOG_LEVEL": "WARNING",
            "MODELS_DIR": str(Path(folder) / "models"),
        }
        console.print("Starting a platform …")
        with running(Path(folder), **settings) as stack:
            tenants = make(stack, options.organizations, console)
            drill = Drill(stack.url, tenants, pause=options.pause)
            began = time.monotonic()
            asyncio.run(
                drill.run(
                    clients=options.clients,
                    seconds=options.seconds,
                    midway=lambda: search(stack, tenants, "redis"),
                    console=console,
                )
            )
            seconds = time.monotonic() - began
            if options.findings:
                drill.found.write(options.findings)
            if options.logs:
                shutil.copytree(stack.var / "log", options.logs, dirs_exist_ok=True)
            console.print("Looking through PostgreSQL and Redis …")
            drill.found.take(search(stack, tenants))
            if options.findings:
                drill.found.write(options.findings)
    return report(options, drill.found, seconds, console)


def search(stack: Stack, tenants: Sequence[Tenant], *what: str) -> list[str]:
    """What is wrong in all that is stored, as JSON lines; found by a process of its own with the
    platform's environment."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "benchmarks.canaries.stored", *what],
        cwd=ROOT,
        env=stack.environment
        | {
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}",
        },
        input=json.dumps([asdict(each) for each in tenants]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if line.startswith("{")]


def report(options: argparse.Namespace, found: Findings, seconds: float, console: Console) -> int:
    """Print what was found, record it where that was asked for; the exit status."""
    figures = {
        "organizations": options.organizations,
        "clients": options.organizations * options.clients,
        "workers": options.workers,
        "seconds": f"{seconds:.0f}",
        "answers": found.answers.total(),
        "texts, rows and keys looked at": found.checked.total(),
        "refused": found.refused.total(),
        "reaches": found.reached.total(),
        "decided": f"{found.decided:.1%}",
        **{str(kind): found.count(kind) for kind in Kind},
    }
    for name, value in figures.items():
        console.print(f"{name:>30}  {value}")
    for title, counts in (
        ("answers", found.answers),
        ("looked at", found.checked),
        ("refused", found.refused),
    ):
        console.print(f"{title}: " + ", ".join(f"{name} {n}" for name, n in sorted(counts.items())))
    for each in found.wrong:
        console.print(each.line(), markup=False, highlight=False)
    if options.record and found.is_whole:
        record(figures)
    return 0 if found.is_whole else 1


def record(figures: Mapping[str, Any]) -> None:
    """Append the figures with the command and the date."""
    command = " ".join([".venv/bin/python benchmarks/isolation.py", *sys.argv[1:]])
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    names, values = (" | ".join(str(each) for each in some) for some in (figures, figures.values()))
    lines = [
        f"\n## Isolation drill, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n",
        f"`{command}`; {os.cpu_count()} CPUs, load average {load}.\n",
        f"| {names} |\n|{' --- |' * len(figures)}\n| {values} |",
    ]
    with _RESULTS.open("a") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
