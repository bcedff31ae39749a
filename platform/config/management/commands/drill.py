"""`manage.py drill`: nothing lost, nothing twice, shown by killing everything under load."""

import asyncio
import json
import secrets
import shutil
import time
from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

import psycopg
import redis
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from config.drill.kills import VICTIMS, Killer
from config.drill.load import Crowd
from config.drill.verdict import Verdict, judge
from config.stack.apart import Stack, running

_HELP = """\
Start a platform of its own under var/drill, put it under load, kill its processes at random, and
check at the end that every accepted request finished exactly once: each client's text has no gap
and no repeat; tokens heard = history = ledger = credit; and nothing is left over. Exits with 1 on
any difference. A running platform is never touched.

  manage.py drill                                two minutes
  manage.py drill --minutes 30 --seed 7 --json   a long one that can be repeated
  manage.py drill --kill worker --every 4        workers alone
"""
_ORGANIZATIONS = ("drill-a", "drill-b", "drill-c")
_SETTLE_SECONDS = 60


class Command(BaseCommand):
    """Load, kills, verdict."""

    help = _HELP
    requires_system_checks = ()

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Keep the help's line breaks."""
        return super().create_parser(
            prog_name, subcommand, formatter_class=RawDescriptionHelpFormatter, **kwargs
        )

    def add_arguments(self, parser: CommandParser) -> None:
        """How long, whom, how often."""
        parser.add_argument("--minutes", type=float, default=2, help="under kills (2)")
        parser.add_argument("--kills", type=int, help="stop after so many, whatever the time")
        parser.add_argument("--every", type=float, default=6, help="seconds between kills (6)")
        parser.add_argument(
            "--kill", nargs="+", choices=list(VICTIMS), default=list(VICTIMS), help="whom (all)"
        )
        parser.add_argument("--clients", type=int, default=24, help="at once (24)")
        parser.add_argument("--seed", type=int, default=None, help="of kills and clients")
        parser.add_argument("--json", action="store_true", help="print the verdict as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Drill, print, exit."""
        seed = options["seed"] if options["seed"] is not None else secrets.randbelow(10**6)
        folder: Path = settings.VAR_DIR / "drill"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        console = Console(stderr=True)
        console.print(f"Drill with seed {seed}. Starting a platform in {folder} …")
        quiet = {"DEFAULT_MODEL": "echo", "LOG_LEVEL": "WARNING", "DRAIN_SECONDS": "5"}
        with running(folder, MODELS_DIR=str(folder / "models"), **quiet) as stack:
            verdict, kills = asyncio.run(self._drill(stack, seed, options, console))
        _show(console, verdict, kills, seed)
        if options["json"]:
            self.stdout.write(json.dumps({**verdict.as_json(), "kills": kills, "seed": seed}))
        if verdict.differences:
            raise CommandError(
                f"{len(verdict.differences)} differences; repeat with --seed {seed}. "
                f"The platform's logs are in {folder / 'log'}."
            )

    async def _drill(
        self, stack: Stack, seed: int, options: dict[str, Any], console: Console
    ) -> tuple[Verdict, dict[str, int]]:
        keys = {slug: _organization(stack, slug) for slug in _ORGANIZATIONS}
        crowd = Crowd(stack.url, keys, seed=seed, size=options["clients"])
        killer = Killer(stack, [VICTIMS[name] for name in options["kill"]], seed=seed)
        load = asyncio.create_task(crowd.run())
        await _kill(killer, options, console, lambda: len(crowd.heard))
        crowd.over = True
        console.print("No more kills; what was begun comes to its end …")
        await asyncio.wait_for(load, 300)
        verdict = await asyncio.to_thread(_judge_when_settled, stack, crowd)
        return verdict, dict(sorted(killer.done.items()))


def _judge_when_settled(stack: Stack, crowd: Crowd) -> Verdict:
    """The last process killed must be up again, and what it left behind taken up."""
    schemas = [f"org_{slug.replace('-', '_')}" for slug in _ORGANIZATIONS]
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        try:
            verdict = judge(stack, crowd.heard, schemas)
        except (psycopg.OperationalError, redis.ConnectionError) as error:
            verdict = Verdict(differences=[f"a server does not answer: {error}"])
        if not verdict.differences or time.monotonic() > deadline:
            return verdict
        time.sleep(1)


async def _kill(killer: Killer, options: dict[str, Any], console: Console, begun: Any) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    seconds = options["minutes"] * 60
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("Load", total=seconds)
        started = time.monotonic()
        while (passed := time.monotonic() - started) < seconds:
            done = killer.done.total()
            if options["kills"] is not None and done >= options["kills"]:
                return
            bar.update(task, completed=passed, description=f"{begun()} requests, {done} kills")
            await killer.pause(options["every"])
            await killer.kill()


def _organization(stack: Stack, slug: str) -> str:
    """A new organization with credit; its key."""
    stack.manage("create_organization", slug, "--credit", "1000")
    words = stack.manage("create_key", "--organization", slug, "--name", "drill").split()
    return next(word for word in words if word.startswith("aip_"))


def _show(console: Console, verdict: Verdict, kills: dict[str, int], seed: int) -> None:
    table = Table("drill", f"seed {seed}", show_edge=False)
    table.add_row("requests", f"{verdict.requests:,}")
    table.add_row("tokens heard", f"{verdict.tokens:,}")
    table.add_row("connections broken", f"{verdict.breaks:,}")
    for name, count in kills.items():
        table.add_row(f"killed: {name}", str(count))
    for name, count in sorted(verdict.ends.items()):
        table.add_row(name, str(count))
    table.add_row("differences", str(len(verdict.differences)))
    console.print(table)
    for difference in verdict.differences[:20]:
        console.print(f"  {difference}")
