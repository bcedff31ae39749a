"""The hammer: many processes spend one credit that pays for exactly N of their requests.

Each request goes the way a real one does: hold, book in a transaction, settle; where only others'
holds stand in the way it waits. Exactly N must be paid for, nobody may be refused who could pay,
and the ledger may not come to more than the credit. With --flush Redis is emptied in the middle:
what has lost its hold holds again or is free, and still nothing is overspent.

  .venv/bin/python benchmarks/credit.py                     16 processes of 200 requests
  .venv/bin/python benchmarks/credit.py --grants 7          half of the credit is grants
  .venv/bin/python benchmarks/credit.py --flush --record    emptied half-way; appended to RESULTS.md
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

from rich.console import Console  # noqa: E402

from kit.embedded import Postgres, Valkey, free_port  # noqa: E402

_RESULTS = ROOT / "benchmarks" / "RESULTS.md"
_COST = 7_777
_PATIENCE = 60.0


def main() -> int:
    """0 if every promise was kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--requests", type=int, default=200, help="of each process")
    parser.add_argument("--pays-for", type=int, default=1000, help="N")
    parser.add_argument("--grants", type=int, default=0, help="so many pay for half of the credit")
    parser.add_argument("--flush", action="store_true", help="empty Redis half-way")
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="platform-bench-") as folder:
        servers = [
            Postgres(Path(folder) / "postgres", port=free_port()),
            Valkey(Path(folder) / "valkey", port=free_port()),
        ]
        try:
            for server, name in zip(servers, ("DATABASE_URL", "REDIS_URL"), strict=True):
                server.start()
                os.environ[name] = server.url
            os.environ |= {"VAR_DIR": folder, "DATABASE_POOL": "0", "LOG_LEVEL": "ERROR"}
            return hammer(options)
        finally:
            for server in servers:
                server.stop()


def hammer(options: argparse.Namespace) -> int:
    """Prepare, hammer, count."""
    organization = prepare(options.pays_for * _COST, options.grants)
    began = time.perf_counter()
    with ProcessPoolExecutor(options.processes, mp_context=get_context("fork")) as pool:
        work = [
            pool.submit(spend, organization, options.requests) for _ in range(options.processes)
        ]
        if options.flush:
            flush_after(organization, options.pays_for // 2)
        outcomes = sum((each.result() for each in work), Counter[str]())
    seconds = time.perf_counter() - began
    paid, total, counted = books(organization)
    figures = {
        "requests": options.processes * options.requests,
        "credit pays for": options.pays_for,
        "paid for": paid,
        "refused": outcomes["refused"],
        "free, hold lost": outcomes["free"],
        "impatient": outcomes["impatient"],
        "overspent, nanos": max(0, total - options.pays_for * _COST),
        "counters off, nanos": abs(counted - total),
        "seconds": f"{seconds:.1f}",
    }
    if options.grants:
        figures["left of grants, nanos"] = left(organization)
    kept = paid == options.pays_for and not (
        figures["overspent, nanos"] or figures["counters off, nanos"] or outcomes["impatient"]
    )
    console = Console()
    for name, value in figures.items():
        console.print(f"{name:>20}  {value}")
    console.print("kept" if kept else "BROKEN")
    if options.record:
        record(figures)
    return 0 if kept else 1


def prepare(worth: int, grants: int) -> int:
    """A migrated database with one organization in it; its key.

    Of the credit's worth so many grants are half, the account's limit is the rest.
    """
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    from django.core.management import call_command
    from django.db import connection

    from billing import ledger  # noqa: F401  the processes find it loaded
    from billing.allowances import Grant
    from billing.models import Account
    from tenants.models import Organization

    call_command("migrate_schemas", shared=True, verbosity=0)
    made = Organization(slug="hammer", name="Hammer")
    made.schema_at_once = False
    made.save()
    given = grants and worth // 2 // grants
    Account.objects.create(organization=made, currency="EUR", credit_limit=worth - given * grants)
    for number in range(grants):
        Grant.objects.create(
            organization=made,
            amount=given,
            remaining=given,
            reason=f"Half of {number}",
            created_at=datetime.now(UTC),
        )
    connection.close()
    return int(made.pk)


def spend(organization: int, requests: int) -> Counter[str]:
    """One process's requests, one after the other; how they came out."""
    return Counter(one(organization) for _ in range(requests))


def one(organization: int) -> str:
    """A request all the way: paid, free, refused, or impatient."""
    from django.db import transaction

    from billing import credit, ledger
    from kit.ids import request_id
    from kit.redis import pipeline

    request = request_id(datetime.now(UTC))
    epoch = hold(organization, request)
    if isinstance(epoch, str):
        return epoch
    entry = ledger.Entry(
        request=request,
        organization=organization,
        key="hammer",
        model="echo",
        state="finished",
        currency="EUR",
        price_version=None,
        region="local",
        units={"output_tokens": 1},
        amounts={"output_tokens": _COST},
        amount=_COST,
        epoch=epoch,
    )
    with transaction.atomic():
        booked = ledger.book([entry], now=datetime.now(UTC))[request]
    amount = 0 if booked.state == "failed" else _COST
    pipeline(
        lambda pipe: credit.settle(
            pipe, organization=organization, request=request, amount=amount, epoch=booked.epoch
        )
    )
    return "paid" if amount else "free"


def hold(organization: int, request: Any) -> int | str:
    """The epoch in which the request holds its cost; or why it does not."""
    from billing import credit
    from kit.redis import pipeline

    ticket = f"ticket:{request}"

    def scripts(pipe: Any) -> None:
        pipe.set(ticket, "limits", px=10_000)
        credit.reserve(
            pipe,
            ticket=ticket,
            organization=organization,
            request=request,
            amount=_COST,
            currency="EUR",
        )
        pipe.get(ticket)

    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        replies = pipeline(scripts)
        try:
            credit.reserved(replies[1])
        except credit.OutOfCredit:
            return "refused"
        except credit.CreditMissing:
            credit.rebuild(organization)
        except credit.CreditReserved:
            time.sleep(0.01)
        else:
            return int(replies[2].decode().removeprefix("credit:"))
    return "impatient"


def flush_after(organization: int, rows: int) -> None:
    """Empty Redis once so many requests are booked."""
    from kit.redis import state

    while books(organization)[0] < rows:
        time.sleep(0.01)
    state().flushdb()


def books(organization: int) -> tuple[int, int, int]:
    """Rows that cost something, what they come to, and what the counters say of it."""
    from django.db.models import Sum

    from billing import credit
    from billing.models import LedgerEntry

    rows = LedgerEntry.objects.for_org(organization).filter(amount__gt=0)
    total = int(rows.aggregate(sum=Sum("amount"))["sum"] or 0)
    counters = credit.counters(organization)
    return rows.count(), total, counters.spent if counters else total


def left(organization: int) -> int:
    """What grants have left; what they paid has to be what is written of their use."""
    from django.db.models import Sum

    from billing.allowances import Grant, GrantUse

    given, remaining = (
        Grant.objects.for_org(organization).aggregate(sum=Sum(name))["sum"]
        for name in ("amount", "remaining")
    )
    used = GrantUse.objects.for_org(organization).aggregate(sum=Sum("amount", default=0))["sum"]
    if given - remaining != used:
        raise AssertionError(f"grants lost {given - remaining} nanos, {used} were used")
    return int(remaining)


def record(figures: dict[str, Any]) -> None:
    """Append the figures with the command and the date."""
    command = " ".join([".venv/bin/python benchmarks/credit.py", *sys.argv[1:]])
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    names, values = (" | ".join(str(each) for each in some) for some in (figures, figures.values()))
    lines = [
        f"\n## Credit hammer, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n",
        f"`{command}`; {os.cpu_count()} CPUs, load average {load}.\n",
        f"| {names} |\n|{' --- |' * len(figures)}\n| {values} |",
    ]
    with _RESULTS.open("a") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
