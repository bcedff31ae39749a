"""What the way out costs: the same answers from the bare engine, and through the whole platform.

In alternating rounds the same requests (prompts, seeds, lengths) are run by the engine in this
process, and by a platform (web → Redis → Celery worker → Redis → web) with a client a stream. Both
deliver the same tokens, so the ratio of their times is the share of the engine's speed that is
left.

Publish → client is measured in the same rounds: from the moment when a step's live message leaves
Redis, heard here on a connection of its own, until the client holds the event.

  .venv/bin/python benchmarks/stream.py                     32 streams of 128 tokens, 3 rounds
  .venv/bin/python benchmarks/stream.py --rounds 5 --record appended to RESULTS.md
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

import redis.asyncio  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402

from config.stack.apart import MODEL, Stack, running  # noqa: E402
from inference.engine import Delta, Sampling, Work, load_engine, load_text  # noqa: E402

_RESULTS = ROOT / "benchmarks" / "RESULTS.md"
Heard = list[tuple[float, bytes]]
"""What came, and when."""
_JUST_MADE_SECONDS = 31
"""How long what was just made is read from the database (`tenants.records`); no platform that is in
service is measured there."""
_TOPICS = ("a dragon", "the sea", "an old clock", "two brothers", "a lost key", "the first snow")


@dataclass
class Round:
    """One round of one side."""

    tokens: int = 0
    seconds: float = 0.0
    delays: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Tokens a second, all streams together."""
        return self.tokens / self.seconds


def prompt(number: int) -> str:
    """Alike in length, different in content."""
    return f"Write a long story, number {number}, about {_TOPICS[number % len(_TOPICS)]}."


class Bare:
    """The engine, in a thread of this process."""

    def __init__(self, slots: int) -> None:
        folder = ROOT / "var" / "models" / MODEL
        self._text = load_text(folder)
        self._engine = load_engine(folder, slots=slots)
        self._left: set[str] = set()
        self._tokens = 0
        self._over = Event()
        Thread(target=self._engine.run, args=[self._take], daemon=True).start()

    def run(self, streams: int, tokens: int) -> Round:
        """All at once, to the last token."""
        self._tokens, self._left = 0, {str(number) for number in range(streams)}
        self._over.clear()
        began = time.perf_counter()
        for number in range(streams):
            chat = self._text.chat([{"role": "user", "content": prompt(number)}])
            sampling = Sampling(max_tokens=tokens, temperature=0.8, top_p=0.95, seed=number)
            self._engine.submit(Work(str(number), "bench", tuple(chat), sampling))
        self._over.wait()
        return Round(self._tokens, time.perf_counter() - began)

    def _take(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            self._tokens += len(delta.tokens)
            if delta.outcome is not None:
                self._left.discard(delta.id)
        if not self._left:
            self._over.set()


async def through(stack: Stack, streams: int, tokens: int) -> Round:
    """The same requests over server-sent events."""
    heard: Heard = []
    listening = asyncio.create_task(listen(stack.redis_url, heard))
    began = time.perf_counter()
    answers = await asyncio.gather(*(follow(stack, n, tokens) for n in range(streams)))
    seconds = time.perf_counter() - began
    listening.cancel()
    with suppress(asyncio.CancelledError):
        await listening
    return weighed(answers, heard, seconds)


async def listen(url: str, heard: Heard) -> None:
    """Note when each live message went out; what is in it is looked at afterwards."""
    client = redis.asyncio.Redis.from_url(url, socket_timeout=None)
    async with client, client.pubsub() as channel:
        await channel.psubscribe("web:*")
        async for message in channel.listen():
            if message["type"] == "pmessage":
                heard.append((time.perf_counter(), message["data"]))


async def follow(stack: Stack, number: int, tokens: int) -> Heard:
    """One client: when each part of its answer came. It shares the processors with what is
    measured, so it looks at them afterwards."""
    host, port = stack.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(
        {
            "prompt": prompt(number),
            "max_tokens": tokens,
            "temperature": 0.8,
            "top_p": 0.95,
            "seed": number,
        }
    )
    writer.write(
        "POST /api/v1/infer/stream HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n"
        f"Authorization: Bearer {stack.key}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    parts: Heard = []
    while part := await reader.read(65536):
        parts.append((time.perf_counter(), part))
    writer.close()
    return parts


def weighed(answers: Sequence[Heard], heard: Heard, seconds: float) -> Round:
    """What the clients were told, and how long after it had left Redis."""
    went = {
        tuple(line.split(b" ", 2)[:2]): when for when, data in heard for line in data.split(b"\n")
    }
    result = Round(seconds=seconds)
    for parts in answers:
        request = b""
        for when, line in lines(parts):
            if line.startswith(b"id: "):
                sent = went.get((request, line[4:].strip()))
                if sent is not None:
                    result.delays.append(when - sent)
            elif line.startswith(b"data: "):
                data = json.loads(line[6:])
                request = data.get("request_id", request.decode()).encode()
                result.tokens += data.get("usage", {}).get("completion_tokens", 0)
    return result


def lines(parts: Heard) -> Iterator[tuple[float, bytes]]:
    """The lines of an answer, and when each was complete."""
    rest = b""
    for when, part in parts:
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield when, line


def main() -> int:
    """Alternate, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128, help="the most an answer has")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/RESULTS.md")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="platform-bench-") as folder:
        console.print("Starting a platform …")
        with running(Path(folder), LOG_LEVEL="WARNING") as stack:
            bare, whole = measure(stack, options)
    line = summary(bare, whole)
    console.print(line)
    if options.record:
        record(line)
    return 0


def measure(stack: Stack, options: argparse.Namespace) -> tuple[list[Round], list[Round]]:
    """Rounds of both sides, after one of each to warm up."""
    engine = Bare(options.streams)
    engine.run(options.streams, 8)
    asyncio.run(through(stack, options.streams, 8))
    for _ in track(range(_JUST_MADE_SECONDS), description="Waiting out the key's making"):
        time.sleep(1)
    bare, whole = [], []
    for _ in track(range(options.rounds), description="Rounds"):
        bare.append(engine.run(options.streams, options.tokens))
        whole.append(asyncio.run(through(stack, options.streams, options.tokens)))
    return bare, whole


def summary(bare: list[Round], whole: list[Round]) -> str:
    """One row of figures."""
    if {each.tokens for each in bare} != {each.tokens for each in whole}:
        raise SystemExit(f"the sides differ: {bare[0].tokens} and {whole[0].tokens} tokens")
    ratios = [after.rate / before.rate for before, after in zip(bare, whole, strict=True)]
    delays = sorted(delay * 1000 for each in whole for delay in each.delays)
    return (
        f"| bare {statistics.median(each.rate for each in bare):.0f} tokens/s "
        f"| through the platform {statistics.median(each.rate for each in whole):.0f} tokens/s "
        f"| ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) "
        f"| publish → client p50 {delays[len(delays) // 2]:.1f} ms, "
        f"p99 {delays[int(len(delays) * 0.99)]:.1f} ms |"
    )


def record(line: str) -> None:
    """Append it with the command, the date and the machine's load."""
    command = " ".join([".venv/bin/python benchmarks/stream.py", *sys.argv[1:]])
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    with _RESULTS.open("a") as file:
        file.write(
            f"\n## Stream, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n\n"
            f"`{command}`; {os.cpu_count()} CPUs, load average {load}.\n\n{line}\n"
        )


if __name__ == "__main__":
    sys.exit(main())
