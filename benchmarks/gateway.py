"""Requests a second through the whole gateway: web → Redis → Celery → engine → PostgreSQL → client.

The model is `echo`, which answers at once, so what is measured is everything else, with
authentication, limits, credit reservation, metering and history on. Clients, web, worker, Valkey
and PostgreSQL share this machine's cores. Afterwards the ledger must hold one row a request.

With --rival the same clients ask LiteLLM's proxy (a mock response, no database) in alternating
rounds, with one and with two workers; the better of its two counts.

  .venv/bin/python benchmarks/gateway.py                    1, 16 and 64 clients, 10 s each
  .venv/bin/python benchmarks/gateway.py --stream --record  streamed; appended to RESULTS.md
  .venv/bin/python benchmarks/gateway.py --rival --rounds 3 beside LiteLLM
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks.rivals.litellm_proxy import litellm_proxy  # noqa: E402
from config.stack.apart import Stack, running  # noqa: E402

_RESULTS = ROOT / "benchmarks" / "RESULTS.md"
_WARM_UP = 2.0


@dataclass(frozen=True, slots=True)
class Target:
    """A server that is asked."""

    name: str
    url: str
    key: str


@dataclass
class Load:
    """What some clients saw in some seconds."""

    target: str
    clients: int
    seconds: float = 0.0
    times: list[float] = field(default_factory=list)
    refused: int = 0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.times) / self.seconds

    def percentile(self, share: float) -> float:
        """In milliseconds."""
        ordered = sorted(self.times)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000


async def client(target: Target, load: Load, request: bytes, until: float) -> None:
    """One keep-alive connection that sends the same request again and again."""
    host, port = target.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    while time.perf_counter() < until:
        began = time.perf_counter()
        writer.write(request)
        status = await answer(reader)
        if status == 200:
            load.times.append(time.perf_counter() - began)
        else:
            load.refused += 1
    writer.close()


async def answer(reader: asyncio.StreamReader) -> int:
    """Read one response to its end, whole or chunked; its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    if b"transfer-encoding: chunked" in head:
        while (size := int((await reader.readline()).split(b";")[0], 16)) > 0:
            await reader.readexactly(size + 2)
        await reader.readline()
    else:
        length = head.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0]
        await reader.readexactly(int(length))
    return status


def request(target: Target, *, stream: bool) -> bytes:
    """A chat of a few words, as HTTP/1.1."""
    body = json.dumps(
        {
            "model": "echo",
            "messages": [{"role": "user", "content": "What is AI?"}],
            "max_tokens": 16,
            "stream": stream,
        }
    )
    return (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\n"
        f"Authorization: Bearer {target.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def measure(target: Target, clients: int, seconds: float, *, stream: bool) -> Load:
    """`clients` at once, for so long."""
    load = Load(target.name, clients)
    began = time.perf_counter()
    sent = request(target, stream=stream)
    await asyncio.gather(*(client(target, load, sent, began + seconds) for _ in range(clients)))
    load.seconds = time.perf_counter() - began
    return load


def main() -> int:
    """Start a platform, load it, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=10.0, help="for each number of clients")
    parser.add_argument("--rounds", type=int, default=1, help="of each number of clients")
    parser.add_argument("--stream", action="store_true", help="server-sent events")
    parser.add_argument("--rival", action="store_true", help="alternate with LiteLLM's proxy")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/RESULTS.md")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="platform-bench-") as folder:
        console.print("Starting a platform with the echo model …")
        with (
            running(Path(folder), DEFAULT_MODEL="echo", LOG_LEVEL="WARNING") as stack,
            rivals(Path(folder), wanted=options.rival) as others,
        ):
            ours = Target("ours", stack.url, stack.key)
            warm, loads = run(stack, ours, others, options)
            booked = stack.rows("SELECT count(*) FROM billing_ledgerentry")[0][0]
    rows = [*table(loads)]
    show(console, rows)
    sent = sum(len(load.times) for load in [*warm, *loads] if load.target == ours.name)
    console.print(f"{sent:,} answers, {booked:,} ledger rows")
    if options.record:
        record(rows, stream=options.stream)
    return 0 if booked == sent else 1


@contextmanager
def rivals(folder: Path, *, wanted: bool) -> Iterator[list[Target]]:
    """LiteLLM's proxy with one and with two workers, if wanted."""
    if not wanted:
        yield []
        return
    with litellm_proxy(folder, workers=1) as one, litellm_proxy(folder, workers=2) as two:
        yield [Target("LiteLLM, 1 worker", *one), Target("LiteLLM, 2 workers", *two)]


def run(
    stack: Stack, ours: Target, others: Sequence[Target], options: argparse.Namespace
) -> tuple[list[Load], list[Load]]:
    """To warm up, then rounds of each number of clients, in which the targets alternate."""
    stack.execute(
        "UPDATE tenants_organization SET requests_per_minute = 0, tokens_per_minute = 0,"
        " concurrent_requests = 0"
    )

    def measured(target: Target, clients: int, seconds: float) -> Load:
        return asyncio.run(measure(target, clients, seconds, stream=options.stream))

    targets = [ours, *others]
    warm = [measured(target, 4, _WARM_UP) for target in targets]
    turns = [
        (target, clients)
        for clients in options.clients
        for _ in range(options.rounds)
        for target in targets
    ]
    loads = [
        measured(target, clients, options.seconds)
        for target, clients in track(turns, description="Measuring")
    ]
    return warm, loads


def table(loads: Sequence[Load]) -> Iterator[list[str]]:
    """A row for each target and number of clients: the median of its rounds, by rate."""
    groups: dict[tuple[int, str], list[Load]] = {}
    for load in loads:
        groups.setdefault((load.clients, load.target), []).append(load)
    for (clients, target), rounds in groups.items():
        middle = sorted(rounds, key=lambda load: load.rate)[len(rounds) // 2]
        yield [
            str(clients),
            target,
            f"{middle.rate:,.0f}",
            f"{middle.percentile(0.5):.1f}",
            f"{middle.percentile(0.99):.1f}",
            str(sum(load.refused for load in rounds)),
        ]


_COLUMNS = ("clients", "server", "requests/s", "p50 ms", "p99 ms", "refused")


def show(console: Console, rows: Sequence[Sequence[str]]) -> None:
    """A table of what was measured."""
    shown = Table(*_COLUMNS)
    for row in rows:
        shown.add_row(*row)
    console.print(shown)


def record(rows: Sequence[Sequence[str]], *, stream: bool) -> None:
    """Append the figures with the command and the date."""
    command = " ".join([".venv/bin/python benchmarks/gateway.py", *sys.argv[1:]])
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    lines = [
        f"\n## Gateway{', streamed' if stream else ''}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n",
        f"`{command}`; {os.cpu_count()} CPUs, load average {load}.\n",
        f"| {' | '.join(_COLUMNS)} |\n|{' --- |' * len(_COLUMNS)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    with _RESULTS.open("a") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
