"""What a thousand organizations cost: making one, migrating all, and a call's latency beside ten.

Two databases on one server, one with few organizations and one with many, each with its own web
process. Calls go to both in alternating rounds, spread over all keys of each: `/v1/models` needs
Redis alone, `/api/v1/usage` PostgreSQL too.

  .venv/bin/python benchmarks/tenancy.py                  10 and 1,000 organizations
  .venv/bin/python benchmarks/tenancy.py --record         appended to RESULTS.md
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from statistics import median, quantiles
from urllib.parse import urlsplit, urlunsplit

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

import httpx  # noqa: E402
import psycopg  # noqa: E402
from rich.console import Console  # noqa: E402

from kit.embedded import Postgres, Valkey, free_port  # noqa: E402

_RESULTS = ROOT / "benchmarks" / "RESULTS.md"
_PATHS = ("/v1/models", "/api/v1/usage")
_ROUNDS, _CALLS = 8, 150
console = Console()


@dataclass(frozen=True, slots=True)
class World:
    """A database with so many organizations, and a key of each."""

    count: int
    environment: dict[str, str]
    keys: list[str]
    seconds: list[float]
    migrated: float


def main() -> int:
    """0 if making one takes at most two seconds and a call as long with many as with few."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--few", type=int, default=10)
    parser.add_argument("--many", type=int, default=1000)
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    parser.add_argument("--prepare", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        print(json.dumps(prepare(options.prepare)))  # noqa: T201
        return 0
    with tempfile.TemporaryDirectory(prefix="platform-bench-") as folder, ExitStack() as stack:
        postgres = Postgres(Path(folder) / "postgres", port=free_port())
        valkey = Valkey(Path(folder) / "valkey", port=free_port())
        for server in (postgres, valkey):
            server.start()
            stack.callback(server.stop)
        worlds = [
            world(count, postgres.url, valkey.url, folder) for count in (options.few, options.many)
        ]
        found = latencies(worlds)
    lines = report(worlds, found)
    console.print("\n".join(lines))
    if options.record:
        record(lines)
    few, many = (median(found[each.count, _PATHS[0]]) for each in worlds)
    return 0 if worlds[1].seconds[-1] <= 2 and many <= few * 1.1 else 1


def world(count: int, postgres: str, valkey: str, folder: str) -> World:
    """Make the database and its organizations, each by itself; then migrate when all is so."""
    console.print(f"Making {count:,} organizations …")
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE with_{count}")
    environment = {
        **os.environ,
        "DATABASE_URL": urlunsplit(urlsplit(postgres)._replace(path=f"/with_{count}")),
        "REDIS_URL": f"{valkey.rsplit('/', 1)[0]}/{min(count, 14)}",
        "VAR_DIR": folder,
        "LOG_LEVEL": "ERROR",
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "platform")]),
    }
    command = [sys.executable, __file__, "--prepare", str(count)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
    made = json.loads(done.stdout.splitlines()[-1])
    return World(count, environment, made["keys"], made["seconds"], made["migrated"])


def prepare(count: int) -> dict[str, object]:
    """In a process of the world's own."""
    import django

    django.setup()
    from django.core.management import call_command

    from billing.models import Account
    from tenants import keys, schemas
    from tenants.models import Organization

    call_command("migrate_schemas", shared=True, verbosity=0)
    seconds, made = [], []
    for number in range(count):
        began = time.perf_counter()
        organization = Organization(slug=f"o{number}", name=f"Organization {number}")
        organization.schema_at_once = False
        organization.save()
        schemas.make(organization.pk, now=datetime.now(UTC))
        seconds.append(time.perf_counter() - began)
        Account.objects.create(organization=organization, currency="EUR", credit_limit=10**12)
        made.append(keys.mint(organization=organization, name="bench")[1])
    began = time.perf_counter()
    with open(os.devnull, "w") as nowhere:
        call_command("migrate_organizations", stdout=nowhere)
    return {"keys": made, "seconds": seconds, "migrated": time.perf_counter() - began}


def latencies(worlds: list[World]) -> dict[tuple[int, str], list[float]]:
    """Milliseconds of calls, by world and path."""
    found: dict[tuple[int, str], list[float]] = {(w.count, p): [] for w in worlds for p in _PATHS}
    with ExitStack() as stack:
        clients = {each.count: stack.enter_context(serving(each)) for each in worlds}
        rings = {each.count: cycle(each.keys) for each in worlds}
        for turn in range(_ROUNDS + 1):
            for each in worlds if turn % 2 else reversed(worlds):
                for path in _PATHS:
                    for _ in range(_CALLS):
                        headers = {"Authorization": f"Bearer {next(rings[each.count])}"}
                        began = time.perf_counter()
                        clients[each.count].get(path, headers=headers).raise_for_status()
                        if turn:
                            passed = (time.perf_counter() - began) * 1000
                            found[each.count, path].append(passed)
    return found


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


def report(worlds: list[World], found: dict[tuple[int, str], list[float]]) -> list[str]:
    """As Markdown."""
    lines = [
        "| organizations | first made in | the last 10 in (median) | none to migrate | "
        + " | ".join(f"`{path}` p50, p95" for path in _PATHS)
        + " |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for each in worlds:
        figures = [found[each.count, path] for path in _PATHS]
        lines.append(
            f"| {each.count:,} | {each.seconds[0]:.2f} s | {median(each.seconds[-10:]):.3f} s | "
            f"{each.migrated:.1f} s | "
            + " | ".join(f"{median(f):.2f} ms, {quantiles(f, n=20)[-1]:.2f} ms" for f in figures)
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
