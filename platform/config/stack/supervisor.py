"""The stack's life: up in order, watched while it runs, down again whatever happened."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic
from types import FrameType

from config.stack import environment, leftovers, payments, ports, servers
from config.stack.banner import Demo, banner
from config.stack.layout import Layout
from config.stack.lock import Lock
from config.stack.preparation import prepare
from config.stack.processes import Processes
from config.stack.readiness import Readiness
from config.stack.screen import Screen
from kit.embedded import LOCAL

_READY_SECONDS = 240.0
_GRACE_SECONDS = 30.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """Somebody wants the stack to end: Ctrl-C, `make stop`, or the system."""


class NotReady(Exception):
    """The processes run, but /health says no."""


class Supervisor:
    """One `make run`."""

    def __init__(
        self, layout: Layout, screen: Screen, *, host: str, port: int, forever: bool = False
    ) -> None:
        self.layout = layout
        self.screen = screen
        self.host = host
        self.port = port
        self.forever = forever
        self.url = f"http://{LOCAL if host == '0.0.0.0' else host}:{port}"  # noqa: S104
        self._down = ExitStack()
        """How to undo what was done, the last first."""

    def run(self) -> None:
        """Run until asked to stop; raises what made it end otherwise."""
        with _signals_raise():
            try:
                self._up()
            finally:
                _ignore_signals()
                self._down.close()

    def _up(self) -> None:
        lock = Lock(self.layout.lock)
        lock.acquire(self.url)
        self._down.callback(lock.release)
        heal(self.layout, self.screen)
        self.layout.make()
        ports.claim(self.host, self.port)
        values = self._start_servers()
        prepare(
            self.screen,
            environment=values,
            root=self.layout.root,
            log=self.layout.logs / "preparation.log",
        )
        self._serve(values, Demo.read(self.layout.demo))

    def _start_servers(self) -> dict[str, str]:
        with self.screen.step("PostgreSQL and Valkey"):
            self._servers = servers.Servers.start(self.layout)
            self._down.callback(self._servers.stop)
        addresses = {
            "DATABASE_URL": self._servers.database_url,
            "REDIS_URL": self._servers.redis_url,
        }
        if os.environ.get("STRIPE") == "local":
            double = payments.Double(self.layout, f"{self.url}/api/v1/stripe/events")
            self._down.callback(double.stop)
            addresses |= double.settings
        return environment.of_processes(
            environment.write(self.layout.environment, addresses),
            root=self.layout.root,
            var=self.layout.var,
            metrics=self.layout.metrics,
            host=self.host,
            port=self.port,
        )

    def _serve(self, values: dict[str, str], demo: Demo) -> None:
        processes = Processes(values, self.layout.root, self.layout.logs, self.forever)
        self._down.callback(processes.stop, _GRACE_SECONDS)
        readiness = Readiness(self.url, self.layout.quickstart, demo.api_key)
        self._down.callback(readiness.end)
        with self.screen.step("Web, worker and beat"):
            processes.start()
            readiness.watch()
            self._await(processes, readiness)
        model = values.get("DEFAULT_MODEL", "smollm2-135m-instruct")
        self.screen.say(banner(self.url, demo, model=model))
        processes.shown = True
        self._watch(processes, readiness)

    def _await(self, processes: Processes, readiness: Readiness) -> None:
        deadline = monotonic() + _READY_SECONDS
        while not readiness.ready:
            processes.tend(0.2)
            self._revive(processes)
            if monotonic() > deadline:
                raise NotReady(
                    f"{self.url}/health is not ready after {_READY_SECONDS:.0f} s: "
                    f"{readiness.said}\n{processes.tail()}\n"
                    f"The whole output is in {self.layout.logs}; mend what it says and run again."
                )

    def _watch(self, processes: Processes, readiness: Readiness) -> None:
        was_ready = True
        while True:
            processes.tend(0.5)
            self._revive(processes)
            if readiness.ready != was_ready:
                was_ready = readiness.ready
                said = "ready again" if was_ready else f"not ready: {readiness.said}"
                processes.say(said)

    def _revive(self, processes: Processes) -> None:
        for name in self._servers.revive():
            processes.say(f"{name} had ended; it runs again")


def heal(layout: Layout, screen: Screen) -> None:
    """Clear away what a killed stack left: its processes, its servers, its word of being ready."""
    layout.quickstart.unlink(missing_ok=True)
    ended = leftovers.end(layout.var)
    servers.end_leftovers(layout)
    if ended:
        screen.warn(f"The last run was killed; {ended} of its processes were still there. Ended.")


@contextmanager
def _signals_raise() -> Iterator[None]:
    def stop(number: int, _: FrameType | None) -> None:
        _ignore_signals()
        raise Stopped(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    """Going down takes its time; a second Ctrl-C must not leave half of the stack behind."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


__all__ = ["NotReady", "Stopped", "Supervisor", "heal"]
