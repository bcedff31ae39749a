"""Five million requests in one organization's history: listing, filtering, searching, analytics.

Rows of 90 days are copied in, of five models, forty keys and eight projects in every combination,
one in a hundred of them failed; then they are counted as beat does, and asked for as the API does,
with values drawn at random. Of a part of them texts are kept, and their words marked.

  nice .venv/bin/python benchmarks/history.py            five million rows; some 6 GB of disk
  .venv/bin/python benchmarks/history.py --rows 100000
  .venv/bin/python benchmarks/history.py --folder var/history --record
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from statistics import quantiles
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

from rich.console import Console  # noqa: E402
from rich.progress import Progress  # noqa: E402

from config.stack.apart import servers  # noqa: E402

_RESULTS = ROOT / "benchmarks" / "RESULTS.md"
_FIRST = datetime(2026, 9, 1, tzinfo=UTC)
_DAYS = 90
_PIECE = 20_000
_TEXTS_EVERY = 50
_MODELS = ("small", "medium", "large", "tiered", "rare")
_SCHEMA = "org_bench"
_WORDS = [f"word{number}" for number in range(20_000)]


def main() -> int:
    """0 if every kind of question has its p95 within 200 ms."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--queries", type=int, default=100, help="of each kind")
    parser.add_argument("--folder", help="where the database lies, and stays for another run")
    parser.add_argument("--fill-only", action="store_true", help="make the rows, ask nothing")
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="platform-bench-") as folder:
        kept = Path(options.folder).resolve() if options.folder else Path(folder)
        with servers(kept):
            return measure(options)


def measure(options: argparse.Namespace) -> int:
    """Fill, count, ask."""
    console = Console()
    organization = prepare()
    with Progress(console=console) as progress:
        filled, counted = fill(organization, options.rows, progress)
        if filled:
            console.print(f"copied in {filled:.0f} s, counted in {counted:.0f} s")
        if options.fill_only:
            return 0
        asked = ask(organization, options.queries, progress)
    for name, (half, most, worst) in asked.items():
        console.print(f"{name:>34}  p50 {half:6.1f} ms  p95 {most:6.1f} ms  max {worst:6.1f} ms")
    if options.record:
        record(options, asked, counted)
    kept = all(most <= 200 for _, most, _ in asked.values())
    console.print("kept" if kept else "BROKEN")
    return 0 if kept else 1


def prepare() -> int:
    """The organization, searched by words, and its schema."""
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    from django.core.management import call_command

    from tenants.models import Organization, Retention

    call_command("migrate_organizations", verbosity=0)
    found = Organization.objects.filter(slug="bench").first()
    return int(
        (
            found
            or Organization.objects.create(
                slug="bench", name="Bench", retention=Retention.TEXTS, texts_searchable=True
            )
        ).pk
    )


def fill(organization: int, count: int, progress: Progress) -> tuple[float, float]:
    """Copy the rows in and count them; the seconds each took, 0 where rows are there already."""
    from django.db import connection

    from analytics.rollups import counting
    from inference import words
    from tenants import datakeys

    with connection.cursor() as cursor:
        cursor.execute(f"SELECT EXISTS (SELECT FROM {_SCHEMA}.inference_request)")  # noqa: S608
        if cursor.fetchone()[0]:
            return 0.0, 0.0
    marker = datakeys.ring(organization).marker(words.place(organization))
    marks = [marker.mark(word).hex() for word in _WORDS]
    task = progress.add_task("rows", total=count)
    began = time.perf_counter()
    with connection.cursor() as cursor:
        with cursor.copy(_COPY) as copy:
            for piece in pieces(count):
                copy.write(piece)
                progress.advance(task, piece.count("\n"))
        with cursor.copy(_COPY_TEXTS) as copy:
            for piece in texts(marks, count):
                copy.write(piece)
        cursor.execute(
            f"INSERT INTO {_SCHEMA}.inference_requestdue"  # noqa: S608
            f" SELECT id FROM {_SCHEMA}.inference_request"
        )
    filled, began = time.perf_counter() - began, time.perf_counter()
    task = progress.add_task("counted", total=count)
    while done := counting.count(_SCHEMA, most=1):
        progress.advance(task, done)
    counted = time.perf_counter() - began
    with connection.cursor() as cursor:
        for table in ("inference_request", "inference_requesttext", "rollups_rollup"):
            cursor.execute(f"VACUUM ANALYZE {_SCHEMA}.{table}")
    return filled, counted


_COPY = f"""
COPY {_SCHEMA}.inference_request (id, state, reason, error, endpoint, model, model_version, key,
    label, region, prompt_tokens, cached_tokens, completion_tokens, amount, currency, attempts,
    created_at, started_at, first_token_at, finished_at, project, cache)
FROM STDIN
"""
_COPY_TEXTS = f"""
COPY {_SCHEMA}.inference_requesttext (request, asked, answered, finished_at, words) FROM STDIN
"""


def rows(count: int) -> Iterator[tuple[str, int, int]]:
    """Id, milliseconds, and random bits of each request, the same at every run."""
    random, start = Random(7), int(_FIRST.timestamp() * 1000)  # noqa: S311
    for number in range(count):
        at, bits = start + number * _DAYS * 86_400_000 // count, random.getrandbits(74)
        high = at << 16 | 0x7000 | bits >> 62
        yield f"{high:016x}{1 << 63 | bits & (1 << 62) - 1:016x}", at, bits


def pieces(count: int) -> Iterator[str]:
    """The rows as COPY reads them."""
    lines: list[str] = []
    for request, at, bits in rows(count):
        model = _MODELS[4 if bits % 1000 == 0 else bits % 4]
        key, project = (bits >> 40) % 40, (bits >> 50) % 8
        read, wrote = 20 + bits % 997, 10 + bits % 499
        state = "failed" if bits % 100 == 0 else "cancelled" if bits % 100 == 1 else "finished"
        amount = 0 if state == "failed" else read * 50 + wrote * 200 * (1 + (bits % 5000 == 0) * 9)
        first, took = 30 + bits % 211, 300 + wrote * 9 + bits % 389
        times = "\t".join(_text(at + each) for each in (0, 5, first, took))
        lines.append(
            f"{request}\t{state}\tstop\t\tinfer\t{model}\t1\tkey{key:09d}\tlabel\tlocal"
            f"\t{read}\t0\t{wrote}\t{amount}\tEUR\t1\t{times}\tp{project}\t"
            f"{'exact' if bits % 5 == 0 else ''}\n"
        )
        if len(lines) == _PIECE:
            yield "".join(lines)
            lines = []
    yield "".join(lines)


def texts(marks: list[str], count: int) -> Iterator[str]:
    """Kept texts, of which only the marks of their words matter here."""
    for number, (request, at, bits) in enumerate(rows(count)):
        if number % _TEXTS_EVERY == 0:
            random = Random(bits)  # noqa: S311
            # Some words are in every tenth text, most in very few.
            found = {marks[int(len(marks) * random.random() ** 4)] for _ in range(60)}
            array = ",".join(f'"\\\\\\\\x{mark}"' for mark in found)
            yield f"{request}\t\\\\x00\t\\\\x00\t{_text(at)}\t{{{array}}}\n"


def _text(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(" ", "milliseconds")


def ask(organization: int, count: int, progress: Progress) -> dict[str, tuple[float, float, float]]:
    """Each kind of question, so many times; p50, p95 and the worst in milliseconds."""
    random, found = Random(8), {}  # noqa: S311
    kinds = questions(organization, random)
    task = progress.add_task("queries", total=count * len(kinds))
    for name, look in kinds.items():
        times = []
        for _ in range(count):
            began = time.perf_counter()
            look()
            times.append((time.perf_counter() - began) * 1000)
            progress.advance(task)
        cuts = quantiles(times, n=20)
        found[name] = cuts[9], cuts[18], max(times)
    return found


def questions(organization: int, random: Random) -> dict[str, Callable[[], Any]]:
    """What is asked."""
    from analytics.requests import Filter, page
    from analytics.rollups.report import Asked, By, report
    from kit.ids import first_id

    last = _FIRST + timedelta(days=_DAYS)

    def moment() -> datetime:
        return _FIRST + timedelta(seconds=random.random() * _DAYS * 86_400)

    def lists(**only: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: page(
            organization,
            Filter(**{name: value() for name, value in only.items()}),
            before=None,
            most=50,
        )

    def sums(*by: By, days: int = _DAYS, hours: bool = False, **only: str) -> Callable[[], Any]:
        def look() -> Any:
            since = _FIRST + timedelta(days=random.randrange(_DAYS - days + 1))
            since += timedelta(hours=12 if hours else 0)
            until = min(since + timedelta(days=days), last)
            return report(organization, Asked(since, until, by, **only))

        return look

    def key() -> str:
        return f"key{random.randrange(40):09d}"

    def chance(*some: str) -> Callable[[], str]:
        return lambda: random.choice(some)

    return {
        "newest": lists(),
        "a page in the middle": lambda: page(
            organization, Filter(), before=first_id(moment()), most=50
        ),
        "from a time on": lists(until=moment),
        "of a model": lists(model=chance(*_MODELS)),
        "of a key": lists(key=key),
        "of a project": lists(project=lambda: f"p{random.randrange(8)}"),
        "failed": lists(states=lambda: ["failed"], until=moment),
        "failed or cancelled": lists(states=lambda: ["failed", "cancelled"]),
        "of a model and a key, failed": lists(
            model=chance(*_MODELS), key=key, states=lambda: ["failed"]
        ),
        "dearer than nearly all": lists(least=lambda: 700_000 + random.randrange(300_000)),
        "dearer than most": lists(least=lambda: 140_000, until=moment),
        "none so dear": lists(least=lambda: 10**9, model=chance(*_MODELS)),
        "by a word": lists(words=lambda: random.choice(_WORDS)),
        "by two common words": lists(words=lambda: f"{_WORDS[random.randrange(3)]} {_WORDS[5]}"),
        "analytics": sums(),
        "analytics by day": sums(By.DAY),
        "analytics by model": sums(By.MODEL),
        "analytics by key": sums(By.KEY),
        "analytics by project": sums(By.PROJECT),
        "analytics by day, model": sums(By.DAY, By.MODEL),
        "analytics by key, project, 30 days": sums(By.KEY, By.PROJECT, days=30),
        "analytics by model, of a key": sums(By.MODEL, key="key000000007"),
        "analytics by day, 30 days": sums(By.DAY, days=30, model="small"),
        "analytics by hour, 2 days": sums(By.HOUR, days=2),
        "analytics by hour, a week": sums(By.HOUR, days=7),
        "analytics by model, noon on": sums(By.MODEL, days=1, hours=True),
    }


def record(
    options: argparse.Namespace, asked: dict[str, tuple[float, float, float]], counted: float
) -> None:
    """Append the figures with the command and the date."""
    command = " ".join([".venv/bin/python benchmarks/history.py", *sys.argv[1:]])
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    pace = f" Counted in {counted:.0f} s." if counted else ""
    lines = [
        f"\n## A history of {options.rows:,} requests, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n",
        f"`{command}`; {os.cpu_count()} CPUs, load average {load}.\n",
        f"One organization, {_DAYS} days, 40 keys, 8 projects; words of every {_TEXTS_EVERY}th "
        f"request are marked.{pace}\n",
        "| question | p50, ms | p95, ms (bar 200) | max, ms |",
        "| --- | --- | --- | --- |",
        *(f"| {name} | {a:.1f} | {b:.1f} | {c:.1f} |" for name, (a, b, c) in asked.items()),
    ]
    with _RESULTS.open("a") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
