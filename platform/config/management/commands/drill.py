"""`manage.py drill`: nothing lost, nothing twice, shown by killing everything under load."""

import asyncio
import json
import os
import secrets
import shutil
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.table import Table

from config.drill.kills import PROCESSES, VICTIMS
from config.drill.rounds import ECHO, Drill, Plan, PlatformEnded
from config.drill.verdict import Verdict, quantile
from config.stack.apart import ROOT, running
from config.stack.layout import Layout
from config.stack.lock import AlreadyRunning, Holder, Lock

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
  manage.py drill --seed 7 8 --minutes 1           a minute each, on the same platform
  manage.py drill --model smollm2-135m-instruct --kill worker=40 --clients 8
                                                   are resumed answers the undisturbed ones?
                                                   (-onnx and -torch: the other runners)
"""
_STOP_SECONDS = 90.0


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
            help="each process (all three); one that is stopped goes on after some seconds",
        )
        parser.add_argument("--disconnects", type=int, help="so many clients leave; no kills")
        parser.add_argument("--clients", type=int, default=24, help="at once (24)")
        parser.add_argument("--workers", type=int, default=2, help="worker processes (2)")
        parser.add_argument("--model", default=ECHO, help="the model that answers (echo)")
        parser.add_argument(
            "--seed", type=int, nargs="+", help="of kills and clients; a round for each"
        )
        parser.add_argument("--json", action="store_true", help="print the verdict as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Drill, print, exit."""
        victims = {} if options["disconnects"] else _victims(options["kill"])
        plan = Plan(
            seeds=options["seed"] or [secrets.randbelow(10**6)],
            victims=victims,
            hows=options["how"],
            seconds=_seconds(options, victims),
            most_kills=options["kills"],
            every=options["every"],
            clients=options["clients"],
            disconnects=options["disconnects"],
            model=options["model"],
        )
        folder: Path = settings.VAR_DIR / "drill"
        lock = Lock(settings.VAR_DIR / "drill.lock")
        try:
            lock.acquire(str(folder))
        except AlreadyRunning as error:
            raise CommandError(_another(error.holder, folder)) from error
        try:
            self._drill(plan, folder, workers=options["workers"], prints_json=options["json"])
        finally:
            lock.release()

    def _drill(self, plan: Plan, folder: Path, *, workers: int, prints_json: bool) -> None:
        console = Console(stderr=True)
        _clear(folder)
        console.print(f"Drill with seed {plan.said}. Starting a platform in {folder} …")
        models = folder / "models" if plan.is_echo else ROOT / "var" / "models"
        quiet = {"LOG_LEVEL": "WARNING", "DRAIN_SECONDS": "5", "MODELS_DIR": str(models)}
        quiet |= {"DEFAULT_EMBEDDING_MODEL": "", "FORMATION": f"worker={workers}"}
        with running(folder, DEFAULT_MODEL=plan.model, **quiet) as stack:
            drill = Drill(stack, plan, console)
            try:
                verdict = asyncio.run(drill.run())
            except PlatformEnded as error:
                raise CommandError(str(error)) from error
        _show(console, verdict, drill.kills, plan.said)
        if prints_json:
            said = {**verdict.as_json(), "kills": drill.kills, "seeds": plan.seeds}
            self.stdout.write(json.dumps(said))
        if verdict.differences:
            raise CommandError(
                f"{len(verdict.differences)} differences; repeat with --seed {plan.said}. "
                f"The platform's logs are in {folder / 'log'}."
            )


def _another(holder: Holder | None, folder: Path) -> str:
    who = f" (process {holder.pid})" if holder else ""
    return (
        f"Another drill runs already{who}, in {folder}. Wait for its end, or give this one a place "
        "of its own: VAR_DIR=<folder> manage.py drill."
    )


def _clear(folder: Path) -> None:
    """Away with the last drill's platform; one that was left running by a drill that was killed is
    ended first."""
    if (orphan := Lock(Layout(ROOT, folder).lock).holder()) is not None:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(orphan.pid)
            process.terminate()
            process.wait(_STOP_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


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


def _show(console: Console, verdict: Verdict, kills: dict[str, int], seed: str) -> None:
    table = Table("drill", f"seed {seed}", show_edge=False)
    for what, much in _rows(verdict, kills):
        table.add_row(what, much)
    console.print(table)
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    console.print(f"{os.cpu_count()} CPUs, load average {load}")
    for difference in verdict.differences[:20]:
        console.print(f"  {difference}", markup=False)


def _rows(verdict: Verdict, kills: dict[str, int]) -> Iterator[tuple[str, str]]:
    yield "requests", f"{verdict.requests:,}"
    yield "tokens heard", f"{verdict.tokens:,}"
    yield "connections broken", f"{verdict.breaks:,}"
    for name, count in kills.items():
        yield f"killed: {name}", str(count)
    yield "answers resumed by another worker", f"{verdict.resumed:,}"
    if verdict.same is not None:
        yield "… equal to the undisturbed text", f"{verdict.same:,}"
    if verdict.forgotten:
        yield "told that a flush lost them", f"{verdict.forgotten:,}"
        yield "… booked before, and credited", f"{verdict.credited:,}"
    yield from _rows_of_times(verdict)
    for name, count in sorted(verdict.ends.items()):
        yield name, f"{count:,}"
    yield "differences", str(len(verdict.differences))


def _rows_of_times(verdict: Verdict) -> Iterator[tuple[str, str]]:
    for pauses, killed in ((verdict.pauses, "a worker"), (verdict.longer_pauses, "several")):
        if pauses:
            said = f"{quantile(pauses, 0.5)} s, {quantile(pauses, 0.95)} s"
            yield f"{len(pauses)} pauses, {killed} killed: p50, p95", said
    if verdict.late:
        said = f"{quantile(verdict.late, 0.5):.0f}, {quantile(verdict.late, 0.99):.0f}"
        what = f"tokens after {len(verdict.late):,} cancellations: p50, p99, most"
        yield what, f"{said}, {max(verdict.late)}"
    if verdict.to_stop:
        said = f"{quantile(verdict.to_stop, 0.5)} s, {quantile(verdict.to_stop, 0.99)} s"
        yield f"{len(verdict.to_stop):,} left for good, until stopped: p50, p99", said
