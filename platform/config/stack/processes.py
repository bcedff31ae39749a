"""The Procfile's processes, run by honcho: output gathered, deaths mended, all ended together."""

import logging
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import cycle
from logging.handlers import RotatingFileHandler
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic

from honcho.environ import parse_procfile
from honcho.printer import Message, Printer
from honcho.process import Process

_QUICK_SECONDS = 60.0
"""A process that lived longer than this is trusted again."""
_MOST_QUICK_DEATHS = 5
_LONGEST_PAUSE = 15.0
_LOG_BYTES = 20 * 1024 * 1024
_COLOURS = ("36", "33", "35", "32")


class GaveUp(Exception):
    """A process keeps dying."""

    def __init__(self, name: str, code: int, log: Path) -> None:
        super().__init__(
            f"{name} ended {_MOST_QUICK_DEATHS} times in a row soon after its start, with code "
            f"{code}. It last said:\n{_tail(name, log)}\n"
            f"All of it is in {log}; mend that and run `make run` again."
        )


@dataclass(slots=True)
class _Running:
    """One line of the Procfile, and how its process fares."""

    process: Process
    log: logging.Logger
    path: Path
    alive: bool = False
    pid: int | None = None
    started: float = 0.0
    quick_deaths: int = 0
    again_at: float | None = None


@dataclass(slots=True)
class Processes:
    """Started once, then `tend`ed again and again until `stop`.

    With `forever` a process that dies starts again at once, however often.
    """

    environment: Mapping[str, str]
    root: Path
    logs: Path
    forever: bool = False
    shown: bool = False
    """Whether output goes to the terminal too; it always goes to the log files."""
    _running: dict[str, _Running] = field(default_factory=dict)
    _events: "SimpleQueue[Message]" = field(default_factory=SimpleQueue)
    _printer: Printer = field(default_factory=Printer)

    def start(self) -> None:
        """Start every process of the Procfile, as many of each as FORMATION says."""
        procfile = parse_procfile((self.root / "Procfile").read_text())
        commands = dict(_formed(procfile.processes, self.environment.get("FORMATION", "")))
        self._printer.width = max(len("stack"), *map(len, commands))
        for colour, (name, command) in zip(cycle(_COLOURS), commands.items(), strict=False):
            path = self.logs / f"{name}.log"
            process = Process(
                command,
                name=name,
                colour=colour,
                env={**self.environment, "PROCESS": name},
                cwd=str(self.root),
            )
            self._running[name] = _Running(process, _log_file(name, path), path)
            self._launch(self._running[name])

    def tend(self, seconds: float) -> None:
        """Handle what happens within `seconds`; raises `GaveUp`."""
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0:
            with suppress(Empty):
                self._handle(self._events.get(timeout=left))
            self._start_again()

    def stop(self, grace: float) -> None:
        """Ask all to end; after `grace` seconds end them by force. Returns when none is left."""
        asked, deadline = set[int](), monotonic() + grace
        while alive := [running for running in self._running.values() if running.alive]:
            for running in alive:
                if running.pid is not None and running.pid not in asked:
                    asked.add(running.pid)
                    _signal(running.pid, signal.SIGTERM)
            if monotonic() > deadline:
                for pid in asked:
                    _signal(pid, signal.SIGKILL)
            with suppress(Empty):
                self._note(self._events.get(timeout=0.1))

    def say(self, text: str) -> None:
        """A line of the supervisor's own among the processes' lines."""
        self._printer.write(Message("line", text, datetime.now(), "stack", None))  # noqa: DTZ005

    def tail(self) -> str:
        """The last lines of each process, for a start that failed."""
        return "\n".join(_tail(name, running.path) for name, running in self._running.items())

    def _launch(self, running: _Running) -> None:
        running.alive, running.started, running.again_at = True, monotonic(), None
        name = f"{running.process.name} output"
        Thread(target=running.process.run, args=[self._events], name=name, daemon=True).start()

    def _handle(self, event: Message) -> None:
        self._note(event)
        if event.type != "stop":
            return
        running, code = self._running[event.name], event.data["returncode"]
        lived = monotonic() - running.started
        trusted = self.forever or lived > _QUICK_SECONDS
        running.quick_deaths = 1 if trusted else running.quick_deaths + 1
        if running.quick_deaths >= _MOST_QUICK_DEATHS:
            raise GaveUp(event.name, code, running.path)
        pause = min(_LONGEST_PAUSE, 0.5 * 2 ** (running.quick_deaths - 1))
        running.again_at = monotonic() + pause
        self.say(f"{event.name} ended with code {code}; it starts again in {pause:g} s")

    def _note(self, event: Message) -> None:
        running = self._running[event.name]
        if event.type == "start":
            running.pid = event.data["pid"]
        elif event.type == "stop":
            running.alive, running.pid = False, None
        else:
            running.log.info(event.data.decode("utf-8", "replace").rstrip())
            if self.shown:
                self._printer.write(event)

    def _start_again(self) -> None:
        for running in self._running.values():
            if running.again_at is not None and monotonic() >= running.again_at:
                self._launch(running)


def _formed(commands: Mapping[str, str], formation: str) -> Iterator[tuple[str, str]]:
    """Each process by name, the second of its kind as `worker.2`; `formation` is `worker=2,…`."""
    pairs = (each.partition("=") for each in formation.split(",") if each)
    counts = {name.strip(): int(count) for name, _, count in pairs}
    for name, command in commands.items():
        for number in range(1, counts.get(name, 1) + 1):
            yield (name if number == 1 else f"{name}.{number}"), command


def _log_file(name: str, path: Path) -> logging.Logger:
    """Lines as they come, the file before and this one kept to a bounded size."""
    logger = logging.getLogger(f"stack.{name}")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8")
    if path.stat().st_size:
        handler.doRollover()
    logger.handlers = [handler]
    return logger


def _tail(name: str, log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-8:]
    return "\n".join(f"  {name} | {line}" for line in lines)


def _signal(pid: int, number: signal.Signals) -> None:
    """To the whole group: honcho runs each line of the Procfile by a shell of its own session."""
    with suppress(ProcessLookupError):
        os.killpg(pid, number)
