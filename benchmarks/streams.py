"""Very many streams open at once on one web process: are all of them whole, how late is an event,
and how much memory does one take?

The platform is a whole one. Its worker stands still meanwhile: in its place a worker of this
benchmark's serves the echo model, with all that a worker has (claims, leases, the publisher,
bookings) but an engine that says a token of each answer `--rate` times a second, each answer in its
own rhythm, so that the web process has the processors to itself. An event's delay is the time from
when its token was made until its client has it.

  .venv/bin/python benchmarks/streams.py                      2,000 streams of 10 events a second
  .venv/bin/python benchmarks/streams.py --streams 500 --record
"""

import argparse
import asyncio
import gc
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, cast

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

import numpy as np  # noqa: E402
import orjson  # noqa: E402
import psutil  # noqa: E402
import uvloop  # noqa: E402
from rich.console import Console  # noqa: E402

from config.stack.apart import Stack, running  # noqa: E402
from inference.engine import Delta, FinishReason, Outcome, Work  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

_RESULTS = ROOT / "benchmarks" / "RESULTS.md"
_TICK = 0.005
_MADE = "made.json"
_MEMORY_BAR, _DELAY_BAR = 60.0, 50.0


@dataclass
class Answer:
    """One that is being said."""

    work: Work
    said: int = 0


@dataclass(frozen=True, slots=True)
class Stats:
    """What a station's report wants to know."""

    running: int
    prompt_tokens: int = 0
    cached_tokens: int = 0


class Talker:
    """The echo model at a speaking pace: as a station wants its engine (`inference.worker`)."""

    adapters: frozenset[str] = frozenset()

    def __init__(self, rate: float) -> None:
        self._circle: list[list[Answer]] = [[] for _ in range(round(1 / rate / _TICK))]
        self._at = 0
        self._lock = Lock()
        self._cancelled: dict[str, FinishReason] = {}
        self._stopped = Event()
        self.made: dict[str, list[float]] = {}
        self.told: dict[str, list[float]] = {}

    def submit(self, work: Work) -> None:
        """It is said from the next time on that its place on the circle comes."""
        with self._lock:
            self._circle[self._at - 1].append(Answer(work, len(work.emitted)))

    def cancel(self, identifier: str, reason: FinishReason = FinishReason.cancelled) -> None:
        """Nobody leaves here; should it happen, the answer ends."""
        self._cancelled[identifier] = reason

    def stop(self) -> None:
        """Say nothing more."""
        self._stopped.set()

    def stats(self) -> Stats:
        """How many are being said."""
        return Stats(sum(map(len, self._circle)))

    def unbegun(self) -> frozenset[str]:
        """None: whatever is here is being said."""
        return frozenset()

    def run(self, publish: Callable[[Sequence[Delta]], None]) -> None:
        """Once round the circle in a period, without end."""
        due = time.monotonic()
        while not self._stopped.is_set():
            with self._lock:
                here = self._circle[self._at]
                self._at = (self._at + 1) % len(self._circle)
                answers = [*here]
            deltas = [self._next(answer) for answer in answers]
            with self._lock:
                ended = {delta.id for delta in deltas if delta.outcome is not None}
                here[:] = [one for one in here if one.work.id not in ended]
            if deltas:
                publish(deltas)
            due += _TICK
            time.sleep(max(0.0, due - time.monotonic()))

    def _next(self, answer: Answer) -> Delta:
        work, at = answer.work, answer.said
        answer.said += 1
        self.made.setdefault(work.id.partition("/")[0], []).append(time.monotonic())
        token = work.prompt[at]
        is_end = at == len(work.prompt) - 1
        reason = self._cancelled.pop(work.id, FinishReason.stop if is_end else None)
        outcome = Outcome(reason, len(work.prompt), 0, at + 1) if reason else None
        return Delta(work.id, at, (token,), "" if is_end else chr(token), outcome)


def serve(streams: int, rate: float) -> None:
    """The worker in the other one's place, until SIGTERM; leaves when each token was made."""
    import django

    django.setup()
    from django.conf import settings

    import celery_app  # noqa: F401  announcements go to its broker
    from inference.catalog.offers import Offer, published
    from inference.worker import Host
    from inference.worker.held import Held
    from inference.worker.station import Station
    from kit import pauses

    talker, over = Talker(rate), Event()

    class Noting(Station):
        """Notes when what the talker said was in its stream."""

        def _note(self, held: Held, delta: Delta, verdict: str) -> None:
            now, request = time.monotonic(), str(held.claim.job.id)
            talker.told.setdefault(request, []).extend(now for _ in delta.tokens)
            super()._note(held, delta, verdict)

    class Speaking(Host):
        """Has the talker for an engine."""

        def _station(self, group: Sequence[Offer], slots: int, threads: int | None) -> Station:
            return Noting(
                group[0],
                talker,
                slots=slots,
                sealed=self._finisher.finish,
                vacant=lambda: self.serve(group[0].name),
            )

    host = Speaking([published()["echo"]], slots=streams + 100)
    host.start()
    pauses.keep_rare()  # as a worker's (`celery_app.worker`)
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    while not over.wait(0.02):
        host.serve("echo")
    host.drain(5)
    (settings.VAR_DIR / _MADE).write_bytes(orjson.dumps([talker.made, talker.told]))


@dataclass
class Heard(asyncio.Protocol):
    """One client: what came, and when. It is looked at afterwards."""

    head: bytes
    first: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    parts: list[tuple[float, bytes]] = field(default_factory=list)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        cast("asyncio.Transport", transport).write(self.head)

    def data_received(self, data: bytes) -> None:
        """Note it."""
        self.parts.append((time.monotonic(), data))
        if b"event: token" in data:
            self.first.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self.first.set()
        self.ended.set()


@dataclass(frozen=True, slots=True)
class Result:
    """What was found; the delays are of events made while all were open, in ms."""

    streams: int
    whole: int
    delays: np.ndarray
    """From when a token was made to its client."""
    on_the_way: np.ndarray
    """From when it was in its stream."""
    others: Counter[str]
    """What was heard last by those that were not whole."""


def prompt(number: int, length: int) -> str:
    """Text in which a gap or a repeat shows."""
    words = f"{number}:"
    while len(words) < length:
        words += f" {len(words)}"
    return words[:length]


@dataclass(frozen=True, slots=True)
class Window:
    """The time while all were open, and what was seen at its borders."""

    since: float
    until: float
    memory: float
    cpu: dict[str, float]
    still_open: int

    @property
    def seconds(self) -> float:
        """How long."""
        return self.until - self.since


async def measure(
    stack: Stack, key: str, worker: psutil.Process, options: argparse.Namespace
) -> tuple[list[Heard], Window]:
    """Open all, some a second; hear them to their ends."""
    host, port = stack.url.removeprefix("http://").split(":")
    web = stack.find("uvicorn")
    processes = {
        "web": web,
        "worker": worker,
        "Valkey": stack.find("valkey-server"),
        "clients": psutil.Process(),
    }
    loop = asyncio.get_running_loop()

    async def connect(number: int, length: int) -> Heard:
        body = orjson.dumps({"model": "echo", "prompt": prompt(number, length), "max_tokens": 4000})
        heard = Heard(
            b"POST /api/v1/infer/stream HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n"
            b"Authorization: Bearer " + key.encode() + b"\r\n"
            b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
        )
        await loop.create_connection(lambda: heard, host, int(port))
        return heard

    warm = [await connect(number, 20) for number in range(50)]
    await asyncio.gather(*(each.ended.wait() for each in warm))
    before, began = web.memory_full_info().uss, loop.time()
    all_heard = []
    say(f"Opening {options.streams:,} streams …")
    for number in range(options.streams):
        all_heard.append(await connect(number, _length(options)))
        await asyncio.sleep(max(0.0, began + number / options.opening - loop.time()))
    await asyncio.gather(*(each.first.wait() for each in all_heard))
    say(f"All are open; measuring for {options.seconds:g} s …")
    since, used = loop.time(), {name: _cpu(each) for name, each in processes.items()}
    await asyncio.sleep(options.seconds)
    seconds = loop.time() - since
    cpu = {name: (_cpu(each) - used[name]) / seconds for name, each in processes.items()}
    memory = (web.memory_full_info().uss - before) / options.streams / 1024
    still_open = sum(not each.ended.is_set() for each in all_heard)
    window = Window(since, since + seconds, memory, cpu, still_open)
    say("Measured; hearing them to their ends …")
    await asyncio.wait_for(asyncio.gather(*(each.ended.wait() for each in all_heard)), 300)
    return all_heard, window


def say(what: str) -> None:
    """How far it is."""
    Console(stderr=True).print(what)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _length(options: argparse.Namespace) -> int:
    """Of an answer, in letters: as long as all are opened and looked at."""
    return int(options.rate * (options.streams / options.opening + options.seconds + 2))


def weigh(
    all_heard: Sequence[Heard], noted: Sequence[dict[str, list[float]]], window: Window, length: int
) -> Result:
    """What the clients were told, beside what was made and when."""
    made, told = noted
    delays, on_the_way, others = [], [], Counter[str]()
    for number, each in enumerate(all_heard):
        text, request, last = "", "", "nothing"
        for when, line in _lines(each.parts):
            if line.startswith((b"data: ", b"HTTP/", b"{")):
                last = line.decode("utf-8", "replace").strip()
            if line.startswith(b"id: "):
                at = int(line[4:].partition(b"-")[0]) - 1
                if at < length and window.since <= made[request][at] < window.until:
                    delays.append((when - made[request][at]) * 1000)
                    on_the_way.append((when - told[request][at]) * 1000)
            elif line.startswith(b"data: "):
                data = orjson.loads(line[6:])
                request = data.get("request_id", request)
                text += data.get("text", "")
        if '"finish_reason":"stop"' in last:
            last = "the end, but not the text" if text != prompt(number, length) else ""
        others[re.sub(r"[0-9a-f-]{36}", "…", last)[:160]] += 1
    whole = others.pop("", 0)
    return Result(len(all_heard), whole, np.array(delays), np.array(on_the_way), others)


def _lines(parts: Sequence[tuple[float, bytes]]) -> "Iterator[tuple[float, bytes]]":
    rest = b""
    for when, part in parts:
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield when, line


@contextmanager
def instead(stack: Stack, options: argparse.Namespace) -> "Iterator[psutil.Process]":
    """The platform's worker stands still, and this benchmark's serves."""
    worker = stack.worker()
    worker.suspend()
    command = [sys.executable, __file__, "--serve"]
    command += ["--streams", str(options.streams), "--rate", str(options.rate)]
    process = subprocess.Popen(command, cwd=ROOT, env=stack.environment)  # noqa: S603
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)
        worker.resume()


def table(result: Result, window: Window) -> str:
    """Figures and bars."""
    made = np.percentile(result.delays, [50, 99])
    way = np.percentile(result.on_the_way, [50, 99])
    shares = ", ".join(f"{name} {share:.0%}" for name, share in window.cpu.items())
    rows = [
        ("streams", f"{result.streams:,}", ""),
        ("open all the while", f"{window.still_open:,}", "all"),
        ("whole, to the last letter", f"{result.whole:,}", "all"),
        ("events/s", f"{len(result.delays) / window.seconds:,.0f}", ""),
        ("token in its stream → client, p50, p99", f"{way[0]:.1f}, {way[1]:.1f} ms", ""),
        ("token made → client, p50, p99", f"{made[0]:.1f}, {made[1]:.1f} ms", f"≤ {_DELAY_BAR:g}"),
        ("memory of the web process, a stream", f"{window.memory:.1f} KiB", f"≤ {_MEMORY_BAR:g}"),
        ("CPU, of a core each", shares, ""),
    ]
    rows += [(f"not whole: {last}", f"{count:,}", "none") for last, count in result.others.items()]
    lines = [f"| {what} | {much} | {bar} |" for what, much, bar in rows]
    return "\n".join(["| | | bar |", "|---|---|---|", *lines])


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=10, help="events a second of each (10)")
    parser.add_argument("--opening", type=float, default=100, help="streams opened a second (100)")
    parser.add_argument("--seconds", type=float, default=20, help="measured with all open (20)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/RESULTS.md")
    options = parser.parse_args()
    if options.serve:
        serve(options.streams, options.rate)
        return 0
    with tempfile.TemporaryDirectory(prefix="platform-streams-") as folder:
        many = str(2 * options.streams)
        settings = {"CONNECTIONS_PER_ADDRESS": many, "CONNECTIONS_PER_KEY": many}
        models = {"MODELS_DIR": f"{folder}/models", "DEFAULT_MODEL": "echo"}
        models["DEFAULT_EMBEDDING_MODEL"] = ""
        say("Starting a platform …")
        with running(Path(folder), LOG_LEVEL="WARNING", **settings, **models) as stack:
            key = stack.organization("bench")
            with instead(stack, options) as worker:
                gc.disable()  # its pauses would be the clients', not the platform's
                all_heard, window = uvloop.run(measure(stack, key, worker, options))
            noted = orjson.loads((stack.var / _MADE).read_bytes())
    result = weigh(all_heard, noted, window, _length(options))
    said = table(result, window)
    Console().print(said, markup=False)
    if options.record:
        record(said)
    return missed(result, window)


def missed(result: Result, window: Window) -> int:
    """How many bars are missed, each said."""
    bars = {
        "not all streams are whole": result.whole < result.streams,
        "not all were open all the while: open them faster (--opening)": (
            window.still_open < result.streams
        ),
        "events are late": float(np.percentile(result.delays, 99)) > _DELAY_BAR,
        "a stream takes too much memory": window.memory > _MEMORY_BAR,
    }
    for what in (what for what, is_so in bars.items() if is_so):
        Console(stderr=True).print(f"Missed: {what}.")
    return sum(bars.values())


def record(said: str) -> None:
    """Append it with the command, the date and the machine's load."""
    command = " ".join([".venv/bin/python benchmarks/streams.py", *sys.argv[1:]])
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    with _RESULTS.open("a") as file:
        file.write(
            f"\n## Open streams, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n\n"
            f"`{command}`; {os.cpu_count()} CPUs, load average {load}.\n\n{said}\n"
        )


if __name__ == "__main__":
    sys.exit(main())
