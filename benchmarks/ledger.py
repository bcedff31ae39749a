"""Finished requests a second through `inference.finish`, over many organizations' schemas.

Sealed requests lie in Redis as a worker leaves them; finishers book them as they do in a worker, 64
a transaction: history row, ledger row, credit and limits settled, terminal event. Afterwards the
ledger and the histories must hold one row a request. PostgreSQL writes through to the disk.

  .venv/bin/python benchmarks/ledger.py                  500 schemas, 20,000 requests
  .venv/bin/python benchmarks/ledger.py --record         appended to RESULTS.md
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

from rich.console import Console  # noqa: E402

from config.stack.apart import servers  # noqa: E402

_RESULTS = ROOT / "benchmarks" / "RESULTS.md"
_BATCH = 64


def main() -> int:
    """0 if every request was booked once."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--organizations", type=int, default=500)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--finishers", type=int, default=2, help="threads that book")
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="platform-bench-") as folder, servers(Path(folder)):
        return measure(options)


def measure(options: argparse.Namespace) -> int:
    """Prepare, book, count."""
    console = Console()
    console.print(f"Making {options.organizations:,} organizations …")
    organizations, price = prepare(options.organizations)
    console.print(f"Sealing {options.requests:,} requests …")
    requests = list(seal(organizations, price, options.requests))
    batches = [requests[at : at + _BATCH] for at in range(0, len(requests), _BATCH)]
    began = time.perf_counter()
    with ThreadPoolExecutor(options.finishers) as pool:
        list(pool.map(book, batches))
    seconds = time.perf_counter() - began
    rows, remembered = count(organizations)
    rate = len(requests) / seconds
    console.print(f"{rate:,.0f} requests/s; {rows:,} ledger rows, {remembered:,} history rows")
    if options.record:
        record(options, rate, rows, remembered)
    return 0 if rows == remembered == len(requests) else 1


def prepare(count: int) -> tuple[list[tuple[int, str]], int]:
    """Organizations with accounts, their schemas copied from the first's; and a price."""
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    from django.core.management import call_command
    from django.db import connection

    from billing.models import Account, PriceVersion
    from tenants.models import Organization

    call_command("migrate_schemas", shared=True, verbosity=0)
    made = []
    for number in range(count):
        organization = Organization(slug=f"o{number}", name=f"Organization {number}")
        organization.schema_at_once = number == 0
        organization.save()
        made.append((int(organization.pk), organization.schema_name))
    Account.objects.bulk_create(
        Account(organization_id=pk, currency="EUR", credit_limit=10**15) for pk, _ in made
    )
    first = made[0][1]
    with connection.cursor() as cursor:
        for _, schema in made[1:]:
            cursor.execute(f"CREATE SCHEMA {schema}")
            for table in ("inference_request", "inference_requestdue"):
                cursor.execute(
                    f"CREATE TABLE {schema}.{table} (LIKE {first}.{table} INCLUDING ALL)"
                )
    price = PriceVersion.objects.create(
        model="echo",
        currency="EUR",
        rates={"input_tokens": 50_000_000, "output_tokens": 200_000_000},
        effective_from=datetime(2020, 1, 1, tzinfo=UTC),
    )
    return made, int(price.pk)


def seal(organizations: list[tuple[int, str]], price: int, count: int) -> Iterator[UUID]:
    """Sealed requests of organizations drawn at random."""
    from inference.engine import Sampling
    from inference.jobs import SEALED, Job
    from kit.ids import request_id
    from kit.redis import state

    random, pipe = Random(7), state().pipeline(transaction=False)  # noqa: S311
    now = int(time.time() * 1000)
    for number in range(count):
        organization, schema = random.choice(organizations)
        job = Job(
            id=request_id(datetime.now(UTC)),
            organization=organization,
            schema=schema,
            key="key000000000",
            model="echo",
            model_version="1",
            priority=1,
            prompt=tuple(range(40)),
            sampling=Sampling(max_tokens=100),
            price_version=price,
            endpoint="infer",
            label="",
            region="local",
        )
        fields: Any = {
            "state": "sealed",
            "spec": job.dump(),
            "reason": "stop",
            "error": "",
            "web": "",
            "prompt_tokens": 40,
            "cached_tokens": 0,
            "position": 60,
            "attempt": 1,
            "keep": 60,
            **dict.fromkeys(("created", "started", "first", "sealed"), now),
        }
        pipe.hset(f"job:{job.id}", mapping=fields)
        pipe.zadd(SEALED, {str(job.id): now})
        if number % 1_000 == 999:
            pipe.execute()
        yield job.id
    pipe.execute()


def book(batch: list[UUID]) -> None:
    """As a worker's finisher does."""
    from inference.finish import finish

    finish(batch, now=datetime.now(UTC))


def count(organizations: list[tuple[int, str]]) -> tuple[int, int]:
    """Rows of the ledger, and of all histories."""
    from django.db import connection

    from billing.models import LedgerEntry

    remembered = 0
    with connection.cursor() as cursor:
        for _, schema in organizations:
            cursor.execute(f"SELECT count(*) FROM {schema}.inference_request")  # noqa: S608
            remembered += cursor.fetchone()[0]
    return LedgerEntry.objects.across_organizations().count(), remembered


def record(options: argparse.Namespace, rate: float, rows: int, remembered: int) -> None:
    """Append the figures with the command and the date."""
    command = " ".join([".venv/bin/python benchmarks/ledger.py", *sys.argv[1:]])
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    lines = [
        f"\n## Finishing, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n",
        f"`{command}`; {os.cpu_count()} CPUs, load average {load}.\n",
        "| organizations | requests | finishers | requests/s | ledger rows | history rows |",
        "| --- | --- | --- | --- | --- | --- |",
        f"| {options.organizations:,} | {options.requests:,} | {options.finishers} | {rate:,.0f} "
        f"| {rows:,} | {remembered:,} |",
    ]
    with _RESULTS.open("a") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
