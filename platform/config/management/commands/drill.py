"""`manage.py drill`: nothing lost, nothing twice, shown by killing everything under load."""

import asyncio
import json
import os
import secrets
import shutil
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import redis
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from config.drill.client import RETURNING, Habit
from config.drill.kills import PROCESSES, VICTIMS, Killer
from config.drill.load import Crowd
from config.drill.verdict import Verdict, judge, quantile, resumed
from config.stack.apart import ROOT, Stack, running

_HELP = """\
Start a platform of its own under var/drill, put it under load, kill its processes at random, and
check at the end that every accepted request finished exactly once: each client's text has no gap
and no repeat; tokens heard = history = ledger = credit; and nothing is left over. Exits with 1 on
any difference. A running platform is never touched.

  manage.py drill                                  two minutes, everybody
  manage.py drill --kill worker=200                workers alone, two hundred times
  manage.py drill --kill valkey=30 postgres=30     until all of these are done
  manage.py drill --kill flush=30                  Redis forgets everything
  manage.py drill --disconnects 10000              nobody is killed; clients leave for good
  manage.py drill --model smollm2-135m-instruct --kill worker=40 --clients 8
                                                   are resumed answers the undisturbed ones?
"""
_ORGANIZATIONS = ("drill-a", "drill-b", "drill-c")
_SCHEMAS = [f"org_{slug.replace('-', '_')}" for slug in _ORGANIZATIONS]
_SETTLE_SECONDS = 60
_ECHO = "echo"
_SAME_SHARE = 0.99
"""Of resumed answers that equal the undisturbed ones, at least."""


@dataclass(frozen=True, slots=True)
class _Drill:
    """What is done."""

    victims: dict[str, int | None]
    seconds: float
    options: dict[str, Any]
    seed: int

    @property
    def is_echo(self) -> bool:
        return bool(self.options["model"] == _ECHO)


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
        parser.add_argument("--minutes", type=float, help="under kills (2, or until all are done)")
        parser.add_argument("--kills", type=int, help="stop after so many, whatever the time")
        parser.add_argument("--every", type=float, default=6, help="seconds between kills (6)")
        parser.add_argument(
            "--kill",
            nargs="+",
            default=list(PROCESSES),
            metavar="VICTIM[=COUNT]",
            help=f"whom (all processes), and how often: {', '.join(VICTIMS)}",
        )
        parser.add_argument(
            "--how",
            nargs="+",
            choices=["SIGKILL", "SIGTERM", "SIGSTOP"],
            default=["SIGKILL", "SIGTERM", "SIGSTOP"],
            help="for web, worker and beat; servers are always killed outright",
        )
        parser.add_argument("--disconnects", type=int, help="so many clients leave; no kills")
        parser.add_argument("--clients", type=int, default=24, help="at once (24)")
        parser.add_argument("--workers", type=int, default=2, help="worker processes (2)")
        parser.add_argument("--model", default=_ECHO, help="the model that answers (echo)")
        parser.add_argument("--seed", type=int, default=None, help="of kills and clients")
        parser.add_argument("--json", action="store_true", help="print the verdict as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Drill, print, exit."""
        seed = options["seed"] if options["seed"] is not None else secrets.randbelow(10**6)
        victims = {} if options["disconnects"] else _victims(options["kill"])
        drill = _Drill(victims, _seconds(options, victims), options, seed)
        folder: Path = settings.VAR_DIR / "drill"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        console = Console(stderr=True)
        console.print(f"Drill with seed {seed}. Starting a platform in {folder} …")
        models = folder / "models" if drill.is_echo else ROOT / "var" / "models"
        quiet = {"LOG_LEVEL": "WARNING", "DRAIN_SECONDS": "5", "MODELS_DIR": str(models)}
        quiet["DEFAULT_EMBEDDING_MODEL"] = ""
        formation = {"FORMATION": f"worker={options['workers']}"}
        with running(folder, DEFAULT_MODEL=options["model"], **quiet, **formation) as stack:
            verdict, kills = asyncio.run(_run(stack, drill, console))
        _show(console, verdict, kills, seed)
        if options["json"]:
            self.stdout.write(json.dumps({**verdict.as_json(), "kills": kills, "seed": seed}))
        if verdict.differences:
            raise CommandError(
                f"{len(verdict.differences)} differences; repeat with --seed {seed}. "
                f"The platform's logs are in {folder / 'log'}."
            )


async def _run(stack: Stack, drill: _Drill, console: Console) -> tuple[Verdict, dict[str, int]]:
    keys = {slug: stack.organization(slug) for slug in _ORGANIZATIONS}
    leaving = drill.options["disconnects"]
    crowd = Crowd(
        stack.url,
        keys,
        seed=drill.seed,
        size=drill.options["clients"],
        habits=[Habit.LEAVE] if leaving else RETURNING,
        most=leaving,
        model=drill.options["model"],
    )
    killer = Killer(stack, drill.victims, hows=drill.options["how"], seed=drill.seed)
    load = asyncio.create_task(crowd.run())
    await _watch(stack, crowd, killer, drill, console, load)
    crowd.over = True
    console.print("No more kills; what was begun comes to its end …")
    await asyncio.wait_for(load, 300)
    verdict = await asyncio.to_thread(_judge_when_settled, stack, crowd, killer)
    if not drill.is_echo:
        await _compare_resumed(stack, crowd, verdict, console)
    return verdict, killer.counts


async def _watch(
    stack: Stack,
    crowd: Crowd,
    killer: Killer,
    drill: _Drill,
    console: Console,
    load: asyncio.Task[None],
) -> None:
    """Kill until the time is over, or all that was told is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    total = drill.options["disconnects"] or sum(filter(None, drill.victims.values()))
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("Load", total=total or drill.seconds)
        started = time.monotonic()
        while (passed := time.monotonic() - started) < drill.seconds and not load.done():
            if stack.process.poll() is not None:
                raise CommandError(f"the platform ended; see {stack.var / 'output.log'}")
            kills, begun = len(killer.done), len(crowd.heard)
            done = (begun if drill.options["disconnects"] else kills) if total else passed
            bar.update(task, completed=done, description=f"{begun} requests, {kills} kills")
            if drill.options["disconnects"]:
                await asyncio.sleep(1)
                continue
            if killer.is_through or kills == drill.options["kills"]:
                return
            await killer.pause(drill.options["every"])
            await killer.kill()


def _judge_when_settled(stack: Stack, crowd: Crowd, killer: Killer) -> Verdict:
    """The last process killed must be up again, and what it left behind taken up."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        try:
            verdict = judge(stack, crowd.heard, _SCHEMAS, killer.done)
        except (psycopg.OperationalError, redis.ConnectionError) as error:
            verdict = Verdict(differences=[f"a server does not answer: {error}"])
        if not verdict.differences or time.monotonic() > deadline:
            return verdict
        time.sleep(1)


async def _compare_resumed(stack: Stack, crowd: Crowd, verdict: Verdict, console: Console) -> None:
    """A real model's answers that went from worker to worker, beside the undisturbed ones."""
    some = await asyncio.to_thread(resumed, stack, crowd.heard, _SCHEMAS)
    console.print(f"Asking again for {len(some)} answers that were resumed …")
    texts = await crowd.again(some)
    verdict.same = sum(one.text == text for one, text in zip(some, texts, strict=True))
    if verdict.same < _SAME_SHARE * len(some):
        verdict.differences.append(
            f"{len(some) - verdict.same} of {len(some)} resumed answers differ from the undisturbed"
        )


def _victims(words: Sequence[str]) -> dict[str, int | None]:
    victims: dict[str, int | None] = {}
    for word in words:
        name, given, count = word.partition("=")
        if name not in VICTIMS or (given and not count.isdecimal()):
            raise CommandError(
                f"--kill {word}: a victim is one of {', '.join(VICTIMS)}, "
                "with how often if you like, as in worker=200."
            )
        victims[name] = int(count) if given else None
    if len({count is None for count in victims.values()}) > 1:
        raise CommandError("--kill: say how often for every victim, or for none.")
    return victims


def _seconds(options: dict[str, Any], victims: dict[str, int | None]) -> float:
    if options["minutes"] is not None:
        return float(options["minutes"]) * 60
    is_endless = None in victims.values() and not options["disconnects"]
    return 120.0 if is_endless else float("inf")


def _show(console: Console, verdict: Verdict, kills: dict[str, int], seed: int) -> None:
    table = Table("drill", f"seed {seed}", show_edge=False)
    table.add_row("requests", f"{verdict.requests:,}")
    table.add_row("tokens heard", f"{verdict.tokens:,}")
    table.add_row("connections broken", f"{verdict.breaks:,}")
    for name, count in kills.items():
        table.add_row(f"killed: {name}", str(count))
    table.add_row("answers resumed by another worker", f"{verdict.resumed:,}")
    if verdict.same is not None:
        table.add_row("… equal to the undisturbed text", f"{verdict.same:,}")
    if verdict.forgotten:
        table.add_row("told that a flush lost them", f"{verdict.forgotten:,}")
        table.add_row("… booked before, and credited", f"{verdict.credited:,}")
    if verdict.pauses:
        said = f"{quantile(verdict.pauses, 0.5)} s, {quantile(verdict.pauses, 0.95)} s"
        table.add_row(f"{len(verdict.pauses)} pauses, a worker killed: p50, p95", said)
    if verdict.late:
        said = f"{quantile(verdict.late, 0.5):.0f}, {quantile(verdict.late, 0.99):.0f}"
        table.add_row(
            f"tokens after {len(verdict.late):,} cancellations: p50, p99, most",
            f"{said}, {max(verdict.late)}",
        )
    for name, count in sorted(verdict.ends.items()):
        table.add_row(name, f"{count:,}")
    table.add_row("differences", str(len(verdict.differences)))
    console.print(table)
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    console.print(f"{os.cpu_count()} CPUs, load average {load}")
    for difference in verdict.differences[:20]:
        console.print(f"  {difference}")
