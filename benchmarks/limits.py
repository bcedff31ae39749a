"""The hammer: many processes on one API key, for longer than a window.

Each asks again and again, of one key, for what its limits of requests a minute, tokens a minute and
requests at once let through, and notes of every answer the moment by Redis's clock, taken in the
same transaction. Afterwards each moment is checked: no window of 60 s may hold more than a limit,
and nobody may have been refused while all limits had room (tokens count as reserved, as they do).

  .venv/bin/python benchmarks/limits.py                     8 processes, 75 s
  .venv/bin/python benchmarks/limits.py --seconds 130 --record
"""

import argparse
import os
import random
import sys
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402

from kit.embedded import Valkey, free_port  # noqa: E402

_RESULTS = ROOT / "benchmarks" / "RESULTS.md"
_WINDOW_MS = 60_000
_AT_ONCE = 5

Event = tuple[int, str, int]
"""Ms by Redis's clock; what happened; tokens."""


def main() -> int:
    """0 if no limit was exceeded, and nobody refused below it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=75, help="longer than a window (75)")
    parser.add_argument("--requests", type=int, default=3000, help="a minute")
    parser.add_argument("--tokens", type=int, default=150_000, help="a minute")
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="platform-bench-") as folder:
        server = Valkey(Path(folder) / "valkey", port=free_port())
        try:
            server.start()
            os.environ |= {"REDIS_URL": server.url, "VAR_DIR": folder, "LOG_LEVEL": "ERROR"}
            return hammer(options)
        finally:
            server.stop()


def hammer(options: argparse.Namespace) -> int:
    """Ask, check, tell."""
    console = Console()
    bounds = (options.requests, options.tokens, _AT_ONCE)
    until = time.time() + options.seconds
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        work = [
            pool.submit(ask, bounds, until, number, options.processes)
            for number in range(options.processes)
        ]
        for _ in track(range(int(options.seconds)), "Hammering", console=console):
            time.sleep(1)
        events = sorted(event for each in work for event in each.result())
    figures = check(events, bounds)
    figures["seconds"] = f"{options.seconds:g}"
    for name, value in figures.items():
        console.print(f"{name:>28}  {value}")
    kept = not (figures["over a limit"] or figures["refused below it"])
    console.print("kept" if kept else "BROKEN")
    if options.record:
        record(figures)
    return 0 if kept else 1


def ask(bounds: tuple[int, int, int], until: float, number: int, processes: int) -> list[Event]:
    """One process's requests: what Redis said, and when."""
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    from kit.ids import request_id
    from kit.redis import state
    from tenants import limits
    from tenants.auth import Caller, Limits
    from tenants.limits import LimitReached

    caller = Caller(
        organization=1,
        slug="acme",
        schema="org_acme",
        key="hammered0000",
        scopes=frozenset(),
        models=frozenset(),
        limits=Limits(),
        key_limits=Limits(*bounds),
        priority=1,
    )
    scopes = limits.scopes(caller)
    names = [scope.name for scope in scopes]
    chance, events = random.Random(number), list[Event]()  # noqa: S311
    for script in (limits._admit, limits._settle):
        state().script_load(script.source)
    while time.time() < until:
        request, tokens = request_id(datetime.now(UTC)), chance.randrange(1, 90)
        with state().pipeline(transaction=True) as pipe:
            ticket = f"ticket:{request}"
            limits.admit(pipe, ticket=ticket, scopes=scopes, request=request, tokens=tokens)
            pipe.time()
            reply, (seconds, micros) = pipe.execute()
        at = seconds * 1000 + micros // 1000
        try:
            limits.admitted(reply, scopes)
        except LimitReached:
            events.append((at, f"refused {reply[2].decode()}", tokens))
            continue
        events.append((at, "admitted", tokens))
        with state().pipeline(transaction=True) as pipe:
            limits.settle(pipe, counted=names, request=request, tokens=tokens)
            pipe.time()
            _, (seconds, micros) = pipe.execute()
        events.append((seconds * 1000 + micros // 1000, "settled", tokens))
    return events


def check(events: list[Event], bounds: tuple[int, int, int]) -> dict[str, Any]:
    """What the windows held at most, and every moment that broke a promise.

    Two events of the same millisecond are in no known order: for what is at most held, and for who
    is refused below a limit, each is given the benefit of the doubt by that millisecond alone.
    """
    requests, tokens, at_once = bounds
    admitted = [(at, size) for at, what, size in events if what == "admitted"]
    times = [at for at, _ in admitted]
    sums = [0]
    for _, size in admitted:
        sums.append(sums[-1] + size)
    settled = [at for at, what, _ in events if what == "settled"]
    told = Counter(what for _, what, _ in events)
    most = [0, 0, 0]
    over = below = 0
    for at, what, size in events:
        new, old = bisect_right(times, at), bisect_right(times, at - _WINDOW_MS)
        held, used = new - old, sums[new] - sums[old]
        running = new - bisect_right(settled, at)
        if what == "admitted":
            most = [max(most[0], held), max(most[1], used), max(most[2], running)]
            over += held > requests or used > tokens or running > at_once
        elif what.startswith("refused"):
            leaving = bisect_right(times, at - _WINDOW_MS - 1)
            most_running = new - bisect_right(settled, at - 1)
            full = {
                "requests_per_minute": new - leaving >= requests,
                "tokens_per_minute": sums[new] - sums[leaving] + size > tokens,
                "concurrent_requests": most_running >= at_once,
            }
            below += not full[what.removeprefix("refused ")]
    return {
        "asked": told.total() - told["settled"],
        "admitted": told["admitted"],
        "most requests in 60 s": f"{most[0]:,} of {requests:,}",
        "most tokens in 60 s": f"{most[1]:,} of {tokens:,}",
        "most at once": f"{most[2]} of {at_once}",
        "refused": told.total() - told["settled"] - told["admitted"],
        "over a limit": over,
        "refused below it": below,
    }


def record(figures: dict[str, Any]) -> None:
    """Append the figures with the command and the date."""
    command = " ".join([".venv/bin/python benchmarks/limits.py", *sys.argv[1:]])
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    names, values = (" | ".join(str(each) for each in some) for some in (figures, figures.values()))
    lines = [
        f"\n## Limits hammer, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n",
        f"`{command}`; {os.cpu_count()} CPUs, load average {load}.\n",
        f"| {names} |\n|{' --- |' * len(figures)}\n| {values} |",
    ]
    with _RESULTS.open("a") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
