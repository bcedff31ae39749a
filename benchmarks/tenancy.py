"""What a thousand organizations cost: making one, migrating all, and a call's latency beside ten.

Two databases on one server, one with few organizations and one with many, each with its own web
process. Calls go to both in alternating rounds: `/v1/models` needs Redis alone, `/api/v1/usage`
PostgreSQL too. The same traffic to both, that of as many organizations as the few are; and for the
many spread over all of them too, each of which is then asked for too rarely to be remembered.

Making many takes a while: `--keep` leaves them in a folder, for the next run to measure, or to go
on with where this one was cut off.

  .venv/bin/python benchmarks/tenancy.py                  10 and 1,000 organizations
  .venv/bin/python benchmarks/tenancy.py --keep var/tenancy --make-only
  .venv/bin/python benchmarks/tenancy.py --keep var/tenancy --record      appended to RESULTS.md
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from statistics import median, quantiles
from urllib.parse import urlsplit, urlunsplit

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

import httpx  # noqa: E402
import psycopg  # noqa: E402
from psycopg.errors import DuplicateDatabase  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402

from config.stack.apart import servers  # noqa: E402
from kit.embedded import free_port  # noqa: E402

_RESULTS = ROOT / "benchmarks" / "RESULTS.md"
_PATHS = ("/v1/models", "/api/v1/usage")
_ROUNDS, _CALLS = 8, 100
_PACKAGE = """
from inference import migrations
__path__ = [*migrations.__path__, *__path__]
"""
_MIGRATION = """
from django.db import migrations, models

class Migration(migrations.Migration):
    dependencies = [("inference", %r)]
    operations = [
        migrations.AddField("request", "measured", models.CharField(max_length=20, null=True)),
        migrations.AddIndex("request", models.Index(fields=["measured"], name="measured")),
    ]
"""
console = Console()


@dataclass(frozen=True, slots=True)
class World:
    """A database with so many organizations, and a key of each; how long making each took, and one
    more migration in all."""

    count: int
    environment: dict[str, str]
    keys: list[str]
    seconds: list[float]
    migrated: float


@dataclass(slots=True)
class Row:
    """Milliseconds of calls by path, to a world, by so many of its organizations in turn."""

    world: World
    callers: int
    found: dict[str, list[float]] = field(default_factory=lambda: {path: [] for path in _PATHS})


def main() -> int:
    """0 if making one takes at most two seconds and a call as long with many as with few."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--few", type=int, default=10)
    parser.add_argument("--many", type=int, default=1000)
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    parser.add_argument("--keep", type=Path, help="a folder that keeps the databases")
    parser.add_argument("--make-only", action="store_true", help="measure no call")
    parser.add_argument("--prepare", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        print(json.dumps(prepare(options.prepare)))  # noqa: T201
        return 0
    with ExitStack() as stack:
        folder = str(
            options.keep.resolve()
            if options.keep
            else stack.enter_context(tempfile.TemporaryDirectory(prefix="platform-bench-"))
        )
        stack.enter_context(servers(Path(folder)))
        worlds = [world(count, folder) for count in (options.few, options.many)]
        if options.make_only:
            return 0
        rows = latencies(worlds)
    lines = report(rows)
    console.print("\n".join(lines))
    if options.record:
        record(lines)
    same = all(median(rows[1].found[p]) <= median(rows[0].found[p]) * 1.1 for p in _PATHS)
    return 0 if median(worlds[1].seconds[-10:]) <= 2 and same else 1


def world(count: int, folder: str) -> World:
    """Make the database and its organizations, each by itself; then migrate when all is so."""
    postgres, valkey = os.environ["DATABASE_URL"], os.environ["REDIS_URL"]
    environment = {
        **os.environ,
        "DATABASE_URL": urlunsplit(urlsplit(postgres)._replace(path=f"/with_{count}")),
        "REDIS_URL": f"{valkey.rsplit('/', 1)[0]}/{min(count, 14)}",
        "VAR_DIR": folder,
        "LOG_LEVEL": "ERROR",
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "platform")]),
    }
    kept = Path(folder) / f"with_{count}.json"
    if not kept.is_file():
        console.print(f"Making {count:,} organizations …")
        with psycopg.connect(postgres, autocommit=True) as connection, suppress(DuplicateDatabase):
            connection.execute(f"CREATE DATABASE with_{count}")
        command = [sys.executable, __file__, "--prepare", str(count)]
        done = subprocess.run(  # noqa: S603
            command, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        kept.write_text(done.stdout.splitlines()[-1])
    made = json.loads(kept.read_text())
    return World(count, environment, made["keys"], made["seconds"], made["migrated"])


def prepare(count: int) -> dict[str, object]:
    """In a process of the world's own; one that was cut off is gone on with."""
    import django

    django.setup()
    from django.core.management import call_command

    from billing.models import Account
    from tenants import keys, schemas
    from tenants.models import Organization

    call_command("migrate_schemas", shared=True, verbosity=0)
    made = Path(os.environ["VAR_DIR"]) / f"made_{count}.jsonl"
    lines = made.read_text().splitlines() if made.is_file() else []
    with made.open("a") as file:
        left = range(len(lines), count)
        for number in track(left, "Organizations", console=Console(stderr=True)):
            began = time.perf_counter()
            found = Organization.objects.filter(slug=f"o{number}").first()
            organization = found or Organization(slug=f"o{number}", name=f"Organization {number}")
            organization.schema_at_once = False
            organization.save()
            schemas.make(organization.pk, now=datetime.now(UTC))
            passed = time.perf_counter() - began
            Account.objects.get_or_create(
                organization=organization, defaults={"currency": "EUR", "credit_limit": 10**12}
            )
            _, text = keys.mint(organization=organization, name="bench")
            lines.append(json.dumps([text, passed]))
            print(lines[-1], file=file, flush=True)
    with one_more_migration():
        began = time.perf_counter()
        call_command("migrate_organizations", stdout=sys.stderr)
        migrated = time.perf_counter() - began
    texts, seconds = zip(*map(json.loads, lines), strict=True)
    return {"keys": texts, "seconds": seconds, "migrated": migrated}


@contextmanager
def one_more_migration() -> Iterator[None]:
    """Of the tenants' app, as the next release would have: a column and an index."""
    from django.conf import settings
    from django.db.migrations.loader import MigrationLoader

    from tenants import blueprint

    blueprint._statements.clear()  # As in a process that has made none.
    [leaf] = MigrationLoader(None, ignore_no_migrations=True).graph.leaf_nodes("inference")
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "with_one_more"
        package.mkdir()
        (package / "__init__.py").write_text(_PACKAGE)
        (package / "t9999_measured.py").write_text(_MIGRATION % (leaf[1],))
        sys.path.insert(0, folder)
        settings.MIGRATION_MODULES = {"inference": package.name}
        yield
        settings.MIGRATION_MODULES = {}
        sys.path.remove(folder)


def latencies(worlds: list[World]) -> list[Row]:
    """Of calls by path: the same traffic to both, then spread over all of the many."""
    few, many = worlds
    rows = [Row(few, few.count), Row(many, few.count), Row(many, many.count)]
    with ExitStack() as stack:
        clients = {each.count: stack.enter_context(serving(each)) for each in worlds}
        rings = [cycle(each.world.keys[: each.callers]) for each in rows]
        for turn in range(_ROUNDS + 1):
            for at in (0, 1, 2) if turn % 2 else (2, 1, 0):
                for path in _PATHS:
                    passed = calls(clients[rows[at].world.count], rings[at], path)
                    if turn:
                        rows[at].found[path] += passed
    return rows


def calls(client: httpx.Client, ring: Iterator[str], path: str) -> list[float]:
    """Milliseconds of each."""
    passed = []
    for _ in range(_CALLS):
        headers = {"Authorization": f"Bearer {next(ring)}"}
        began = time.perf_counter()
        client.get(path, headers=headers).raise_for_status()
        passed.append((time.perf_counter() - began) * 1000)
    return passed


@contextmanager
def serving(each: World) -> Iterator[httpx.Client]:
    """A web process of the world's, warm."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "config.asgi:application", "--port", str(port)]
    process = subprocess.Popen(  # noqa: S603
        [*command, "--log-level", "error"], env=each.environment, cwd=ROOT
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            until = time.monotonic() + 60
            while True:
                try:
                    client.get("/v1/models")
                    break
                except httpx.TransportError:
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.2)
            for key in each.keys:
                client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
            yield client
    finally:
        process.terminate()
        process.wait(20)


def report(rows: list[Row]) -> list[str]:
    """As Markdown."""
    lines = [
        "| organizations | callers | first made in | the last 10 in (median) | the slowest but the "
        "first | one more migration in all | "
        + " | ".join(f"`{path}` p50, p95" for path in _PATHS)
        + " |",
        "|" + " --- |" * (6 + len(_PATHS)),
    ]
    for each in rows:
        world = each.world
        lines.append(
            f"| {world.count:,} | {each.callers:,} | {world.seconds[0]:.2f} s | "
            f"{median(world.seconds[-10:]):.3f} s | {max(world.seconds[1:]):.2f} s | "
            f"{world.migrated:.1f} s | "
            + " | ".join(
                f"{median(f):.2f} ms, {quantiles(f, n=20)[-1]:.2f} ms" for f in each.found.values()
            )
            + " |"
        )
    return lines


def record(lines: list[str]) -> None:
    """Append the figures with the command and the date."""
    command = " ".join([".venv/bin/python benchmarks/tenancy.py", *sys.argv[1:]])
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    head = [
        f"\n## Organizations, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n",
        f"`{command}`; {os.cpu_count()} CPUs, load average {load}.\n",
    ]
    with _RESULTS.open("a") as file:
        file.write("\n".join([*head, *lines]) + "\n")


if __name__ == "__main__":
    sys.exit(main())
