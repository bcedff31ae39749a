"""Thousands of streams of a remote model on one worker: events a second, delay, memory, CPU.

  .venv/bin/python benchmarks/remote.py                            100, 1,000, 2,000, 4,000 streams
  .venv/bin/python benchmarks/remote.py --streams 2000 --rate 20 --record

A server that speaks OpenAI's stream runs in a process of its own on this machine and says, in each
event of each stream, when it was sent. The engine of a worker's remote station carries all streams
in this process; an event's delay is the time until it would be published. Memory is what the
process grew by while all streams were open, a stream; CPU is this process's share of one core.
"""

import argparse
import asyncio
import multiprocessing
import os
import platform
import resource
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event, Thread

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

import django  # noqa: E402
import numpy as np  # noqa: E402
import orjson  # noqa: E402
import psutil  # noqa: E402
from aiohttp import web  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402

RESULTS = ROOT / "benchmarks" / "RESULTS.md"


@dataclass(frozen=True, slots=True)
class Round:
    """One number of streams; delays in seconds, memory in bytes a stream."""

    streams: int
    events_per_second: float
    delay_p50: float
    delay_p99: float
    memory: float
    cpu: float
    failed: int


def serve(said: Connection, rate: float) -> None:
    """The other server: an event `1 / rate` seconds, with the time, to `max_tokens` of them."""
    asyncio.run(_serve(said, rate))


async def _serve(said: Connection, rate: float) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        start = time.monotonic()
        for number in range(asked["max_tokens"]):
            await asyncio.sleep(max(0.0, start + number / rate - time.monotonic()))
            delta = {"content": f"{time.monotonic():.6f} "}
            await response.write(_event({"choices": [{"index": 0, "delta": delta}]}))
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
        await response.write(_event(end) + b"data: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=8192)
    await site.start()
    said.send(runner.addresses[0][1])
    await asyncio.Event().wait()


def _event(data: object) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def measure(url: str, streams: int, *, events: int) -> Round:
    """Carry so many streams at once, each of `events` events."""
    from inference.catalog.offers import Remote
    from inference.engine import Delta, FinishReason, Sampling
    from inference.worker.remote import Call, RemoteEngine

    remote = Remote(url=url, model="m", secret="", counted=False)
    engine = RemoteEngine(name="bench", remote=remote, text=None)
    delays: list[float] = []
    ends: list[FinishReason] = []
    over = Event()

    def publish(deltas: Sequence[Delta]) -> None:
        now = time.monotonic()
        for delta in deltas:
            delays.extend(now - float(word) for word in delta.text.split())
            if delta.outcome is not None:
                ends.append(delta.outcome.reason)
        if len(ends) == streams:
            over.set()

    thread = Thread(target=engine.run, args=(publish,))
    thread.start()
    process = psutil.Process()
    before, began, used = process.memory_info().rss, time.monotonic(), time.process_time()
    sampling = Sampling(events)
    body = {"messages": [], "stream": True, "max_tokens": events}
    for number in range(streams):
        engine.submit(Call(f"{number}", "bench", (), sampling, body=body, prompt_tokens=1))
    peak = before
    while not over.wait(0.25):
        peak = max(peak, process.memory_info().rss)
    seconds, cpu = time.monotonic() - began, time.process_time() - used
    engine.stop()
    thread.join()
    return Round(
        streams,
        len(delays) / seconds,
        float(np.percentile(delays, 50)),
        float(np.percentile(delays, 99)),
        (peak - before) / streams,
        cpu / seconds,
        sum(end == FinishReason.failed for end in ends),
    )


def table(rounds: Sequence[Round]) -> list[str]:
    """Markdown."""
    lines = [
        "| streams | events/s | delay p50, ms | p99, ms | KiB a stream | CPU | failed |",
        "|---|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {one.streams:,} | {one.events_per_second:,.0f} | {one.delay_p50 * 1e3:.1f} | "
        f"{one.delay_p99 * 1e3:.1f} | {one.memory / 1024:.0f} | {one.cpu:.0%} | {one.failed} |"
        for one in rounds
    ]


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, nargs="+", default=[100, 1000, 2000, 4000])
    parser.add_argument("--rate", type=float, default=5.0, help="events a second and stream")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each round")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/RESULTS.md")
    chosen = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    django.setup()
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=serve, args=(there, chosen.rate), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{here.recv()}/v1"
    events = int(chosen.rate * chosen.seconds)
    console = Console()
    rounds = [
        measure(url, streams, events=events)
        for streams in track(chosen.streams, "measuring", console=console)
    ]
    server.terminate()
    lines = table(rounds)
    print("\n".join(lines))  # noqa: T201
    if chosen.record:
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        with RESULTS.open("a") as file:
            file.write(
                f"\n## Remote streams, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n\n"
                f"`{shlex.join(['.venv/bin/python', *sys.argv])}`; {os.cpu_count()} CPUs "
                f"({platform.machine()}), load average {load}.\n\n"
            )
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
