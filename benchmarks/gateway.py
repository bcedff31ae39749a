"""Requests a second through the whole gateway: web → Redis → Celery → engine → PostgreSQL → client.

The model is `echo`, which answers at once, so what is measured is everything else, with
authentication, limits, credit reservation, metering and history on. Clients, web, worker, Valkey
and PostgreSQL share this machine's cores. Afterwards the ledger must hold one row a request.

  .venv/bin/python benchmarks/gateway.py                    1, 16 and 64 clients, 10 s each
  .venv/bin/python benchmarks/gateway.py --stream --record  streamed; appended to RESULTS.md
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402
from rich.table import Table  # noqa: E402

from config.stack.apart import Stack, running  # noqa: E402

_RESULTS = ROOT / "benchmarks" / "RESULTS.md"
_WARM_UP = 2.0


@dataclass
class Load:
    """What some clients saw in some seconds."""

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


async def client(stack: Stack, load: Load, request: bytes, until: float) -> None:
    """One keep-alive connection that sends the same request again and again."""
    host, port = stack.url.removeprefix("http://").split(":")
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


def request(stack: Stack, *, stream: bool) -> bytes:
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
        f"Authorization: Bearer {stack.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def measure(stack: Stack, clients: int, seconds: float, *, stream: bool) -> Load:
    """`clients` at once, for so long."""
    load = Load(clients)
    began = time.perf_counter()
    sent = request(stack, stream=stream)
    await asyncio.gather(*(client(stack, load, sent, began + seconds) for _ in range(clients)))
    load.seconds = time.perf_counter() - began
    return load


def main() -> int:
    """Start a platform, load it, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=10.0, help="for each number of clients")
    parser.add_argument("--stream", action="store_true", help="server-sent events")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/RESULTS.md")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="platform-bench-") as folder:
        console.print("Starting a platform with the echo model …")
        with running(Path(folder), DEFAULT_MODEL="echo", LOG_LEVEL="WARNING") as stack:
            loads = run(stack, options)
            booked = stack.rows("SELECT count(*) FROM billing_ledgerentry")[0][0]
    show(console, loads, stream=options.stream)
    sent = sum(len(load.times) for load in loads)
    console.print(f"{sent:,} answers, {booked:,} ledger rows")
    if options.record:
        record(loads, stream=options.stream)
    return 0 if booked == sent else 1


def run(stack: Stack, options: argparse.Namespace) -> list[Load]:
    """Each number of clients in turn; the first seconds count for the ledger alone."""
    stack.execute(
        "UPDATE tenants_organization SET requests_per_minute = 0, tokens_per_minute = 0,"
        " concurrent_requests = 0"
    )
    loads = [asyncio.run(measure(stack, 4, _WARM_UP, stream=options.stream))]
    for clients in track(options.clients, description="Measuring"):
        loads.append(asyncio.run(measure(stack, clients, options.seconds, stream=options.stream)))
    return loads


def show(console: Console, loads: list[Load], *, stream: bool) -> None:
    """A table of what was measured."""
    table = Table("clients", "requests/s", "p50 ms", "p99 ms", "refused")
    for load in loads[1:]:
        table.add_row(*cells(load))
    console.print(table)


def record(loads: list[Load], *, stream: bool) -> None:
    """Append the figures with the command and the date."""
    command = " ".join([".venv/bin/python benchmarks/gateway.py", *sys.argv[1:]])
    lines = [
        f"\n## Gateway{', streamed' if stream else ''}, {datetime.now(UTC):%Y-%m-%d}\n",
        f"`{command}`\n",
        "| clients | requests/s | p50 ms | p99 ms | refused |\n| --- | --- | --- | --- | --- |",
        *(f"| {' | '.join(cells(load))} |" for load in loads[1:]),
    ]
    with _RESULTS.open("a") as file:
        file.write("\n".join(lines) + "\n")


def cells(load: Load) -> list[str]:
    """One row."""
    return [
        str(load.clients),
        f"{load.rate:,.0f}",
        f"{load.percentile(0.5):.1f}",
        f"{load.percentile(0.99):.1f}",
        str(load.refused),
    ]


if __name__ == "__main__":
    sys.exit(main())
