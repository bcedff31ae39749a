"""Ten times what the model can do: what is admitted, how fast, and how the rest is refused.

First as many clients as there are slots ask one request after another: the peak. Then requests
come ten times as often as those were answered, whatever becomes of them. Bars: throughput within
10 % of the peak, refusals are 503 (or 429) with Retry-After and come within 50 ms, and what is
admitted takes at most twice as long (p95). Exits with the number of bars that are missed.

  .venv/bin/python benchmarks/shedding.py
  .venv/bin/python benchmarks/shedding.py --seconds 60 --record
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

import aiohttp  # noqa: E402
from rich.console import Console  # noqa: E402

from config.stack.apart import Stack, running  # noqa: E402

_RESULTS = ROOT / "benchmarks" / "RESULTS.md"
_PROMPT = "Write a long story, number {number}, about the sea."


@dataclass
class Phase:
    """What came back."""

    seconds: float = 0.0
    tokens: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    hints: list[int] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


class Load:
    """Requests to one platform."""

    def __init__(self, stack: Stack, key: str, session: aiohttp.ClientSession, tokens: int) -> None:
        self._stack = stack
        self._headers = {"Authorization": f"Bearer {key}"}
        self._session = session
        self._tokens = tokens
        self._asked = 0

    async def closed(self, clients: int, seconds: float) -> Phase:
        """Each client one request after another."""
        phase, until = Phase(), time.monotonic() + seconds

        async def client() -> None:
            while time.monotonic() < until:
                await self._ask(phase, counted_until=until)

        await asyncio.gather(*(client() for _ in range(clients)))
        phase.seconds = seconds
        return phase

    async def opened(self, rate: float, seconds: float, warming: float) -> Phase:
        """`rate` requests a second; those of the first `warming` seconds are not looked at."""
        warm, phase, tasks = Phase(), Phase(), set[asyncio.Task[None]]()
        began = time.monotonic()
        until = began + warming + seconds
        while (now := time.monotonic()) < until:
            into = phase if now > began + warming else warm
            task = asyncio.create_task(self._ask(into, counted_until=until))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(1 / rate)
        await asyncio.gather(*tasks)
        phase.tokens += warm.tokens
        phase.seconds = seconds + warming
        return phase

    async def _ask(self, phase: Phase, *, counted_until: float) -> None:
        self._asked += 1
        body = {
            "prompt": _PROMPT.format(number=self._asked),
            "max_tokens": self._tokens,
            "temperature": 0.8,
            "seed": self._asked,
        }
        began = time.monotonic()
        try:
            async with self._session.post(
                f"{self._stack.url}/api/v1/infer", json=body, headers=self._headers
            ) as response:
                data = await response.json(content_type=None)
                took = time.monotonic() - began
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            phase.statuses[f"broken: {type(error).__name__}"] += 1
            return
        phase.statuses[f"{response.status} {data.get('code', '')}".strip()] += 1
        if response.status != 200:
            phase.refused.append(took)
            phase.hints.append(int(response.headers.get("Retry-After", -1)))
            return
        phase.answered.append(took)
        if time.monotonic() < counted_until:
            phase.tokens += data["usage"]["completion_tokens"]


def p95(values: list[float]) -> float:
    """The value that 95 % do not exceed."""
    ordered = sorted(values)
    return ordered[int((len(ordered) - 1) * 0.95)] if ordered else 0.0


async def measure(stack: Stack, options: argparse.Namespace) -> tuple[Phase, Phase]:
    """The peak, then ten times as much."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        load = Load(stack, stack.organization("load"), session, options.tokens)
        say("Warming up …")
        await load.closed(options.slots, 5)
        say(f"The peak, for {options.seconds:g} s …")
        peak = await load.closed(options.slots, options.seconds)
        if not peak.tokens:
            raise SystemExit(
                f"No answer came within the first {options.seconds:g} s ({dict(peak.statuses)}); "
                "give it more --seconds, or fewer --tokens."
            )
        rate = options.times * len(peak.answered) / options.seconds
        say(f"{options.times:g} times as much, {rate:.0f} requests/s …")
        return peak, await load.opened(rate, options.seconds, options.seconds / 2)


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--tokens", type=int, default=128, help="the most an answer has")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--times", type=float, default=10, help="how often too much")
    parser.add_argument("--queue-seconds", type=int, default=1, help="QUEUE_SECONDS (1)")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/RESULTS.md")
    options = parser.parse_args()
    settings = {
        "QUEUE_SECONDS": str(options.queue_seconds),
        "ENGINE_SLOTS": str(options.slots),
        "LOG_LEVEL": "WARNING",
    }
    say("Starting a platform …")
    with (
        tempfile.TemporaryDirectory(prefix="platform-shed-") as folder,
        running(Path(folder), **settings) as stack,
    ):
        peak, over = asyncio.run(measure(stack, options))
    table = summary(peak, over)
    Console().print(table, markup=False)
    if options.record:
        record(table)
    return missed(peak, over)


def say(what: str) -> None:
    """How far it is."""
    Console(stderr=True).print(what)


def missed(peak: Phase, over: Phase) -> int:
    """How many bars are missed, each said."""
    wrong = [status for status in over.statuses if not status.startswith(("200", "429", "503"))]
    bars = {
        "throughput is more than 10 % below its peak": over.rate < 0.9 * peak.rate,
        "what was admitted took more than twice as long": p95(over.answered)
        > 2 * p95(peak.answered),
        "refusals took more than 50 ms": p95(over.refused) > 0.05,
        "refusals without Retry-After": any(hint < 1 for hint in over.hints),
        f"other ends than answers and refusals: {wrong}": bool(wrong),
        "nothing was refused": not over.refused,
    }
    for what in (what for what, is_so in bars.items() if is_so):
        say(f"Missed: {what}.")
    return sum(bars.values())


def summary(peak: Phase, over: Phase) -> str:
    """Both phases side by side."""
    hints = sorted(over.hints) or [0]
    return "\n".join(
        [
            "| | peak | ten times as much |",
            "|---|---|---|",
            f"| tokens/s | {peak.rate:,.0f} | {over.rate:,.0f} ({over.rate / peak.rate:.2f}) |",
            f"| p95 of what was admitted | {p95(peak.answered):.2f} s | {p95(over.answered):.2f} s "
            f"({p95(over.answered) / p95(peak.answered):.2f} times) |",
            f"| statuses | {dict(peak.statuses)} | {dict(over.statuses)} |",
            f"| p95 of a refusal | | {p95(over.refused) * 1000:.0f} ms |",
            f"| Retry-After | | {hints[0]} to {hints[-1]} s |",
        ]
    )


def record(table: str) -> None:
    """Append it with the command, the date and the machine's load."""
    command = " ".join([".venv/bin/python benchmarks/shedding.py", *sys.argv[1:]])
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    with _RESULTS.open("a") as file:
        file.write(
            f"\n## Shedding, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n\n"
            f"`{command}`; {os.cpu_count()} CPUs, load average {load}.\n\n{table}\n"
        )


if __name__ == "__main__":
    sys.exit(main())
