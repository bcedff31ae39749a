"""A whole platform with state of its own, started as `make run` starts it.

For what must not touch this checkout's: journeys, benchmarks, drills.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg

from kit.embedded import Postgres, Server, Valkey, free_port
from kit.transit import libpq

ROOT = Path(__file__).resolve().parents[3]
MODEL = "smollm2-135m-instruct"
_READY_SECONDS = 400


class NotSo(Exception):
    """What was waited for did not come; the message is the platform's last words."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A running platform: where it is, and what its demo organization may use."""

    url: str
    var: Path
    environment: dict[str, str]
    process: subprocess.Popen[str]

    @property
    def demo(self) -> dict[str, str]:
        """Log-ins and key."""
        found: dict[str, str] = json.loads((self.var / "demo.json").read_text())
        return found

    @property
    def key(self) -> str:
        """The demo organization's."""
        return self.demo["api_key"]

    @property
    def authorization(self) -> dict[str, str]:
        """For any client."""
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def redis_url(self) -> str:
        """Its state Redis."""
        return _settings(self.var / "stack.env")["REDIS_URL"]

    def manage(self, *command: str) -> str:
        """What a management command prints; it must succeed."""
        done = subprocess.run(  # noqa: S603
            [sys.executable, "manage.py", *command],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def organization(self, slug: str) -> str:
        """A new organization with credit and without limits; a key of its."""
        self.manage("create_organization", slug, "--credit", "1000000")
        words = self.manage("create_key", "--organization", slug, "--name", "load").split()
        return next(word for word in words if word.startswith("aip_"))

    @property
    def database_url(self) -> str:
        """Its PostgreSQL, as psycopg takes it."""
        return libpq(_settings(self.var / "stack.env")["DATABASE_URL"])

    def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """From its PostgreSQL."""
        with psycopg.connect(self.database_url) as connection:
            return connection.execute(query, arguments).fetchall()

    def execute(self, statement: str, *arguments: Any) -> None:
        """In its PostgreSQL."""
        with psycopg.connect(self.database_url) as connection:
            connection.execute(statement, arguments)

    def worker(self) -> psutil.Process:
        """Its Celery worker; raises ValueError while there is none."""
        return self.find("celery_app", "worker")

    def find(self, *words: str) -> psutil.Process:
        """Its process whose command line has these words; raises ValueError if none has."""
        found = self.find_all(*words)
        if not found:
            raise ValueError(f"no process of the platform runs {' '.join(words)}")
        return found[0]

    def find_all(self, *words: str) -> list[psutil.Process]:
        """Its processes whose command lines have these words, each family by its eldest."""
        found = dict[int, psutil.Process]()
        for each in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                line = each.cmdline()
                if each.ppid() not in found and all(any(w in part for part in line) for w in words):
                    found[each.pid] = each
        return list(found.values())


@contextmanager
def servers(kept: Path) -> Iterator[None]:
    """PostgreSQL, whose data lie in `kept`, and Valkey alone, for this process's Django: their
    addresses are in its environment, so its settings are to be imported in the block."""
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="platform-bench-") as folder:
        both: dict[str, Server] = {
            "DATABASE_URL": Postgres(kept / "postgres", port=free_port()),
            "REDIS_URL": Valkey(Path(folder) / "valkey", port=free_port()),
        }
        try:
            for name, server in both.items():
                server.start()
                os.environ[name] = server.url
            os.environ |= {"VAR_DIR": folder, "LOG_LEVEL": "ERROR"}
            yield
        finally:
            for server in both.values():
                server.stop()


@contextmanager
def running(folder: Path, **settings: str) -> Iterator[Stack]:
    """Start it, wait until it says that it is ready, and stop it as Ctrl-C would.

    `settings` go into its environment.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"DATABASE_URL", "REDIS_URL", "CACHE_URL", "BROKER_URL"}
    } | {"VAR_DIR": str(folder), "MODELS_DIR": str(ROOT / "var" / "models"), **settings}
    port = free_port()
    output = (folder / "output.log").open("w")
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "config.stack", "run", "--forever", "--port", str(port)],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"},
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
    )
    stack = Stack(f"http://127.0.0.1:{port}", folder, environment, process)
    try:
        wait_until((folder / "quickstart.env").exists, stack, seconds=_READY_SECONDS)
        yield stack
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        output.close()


def wait_until(true: Callable[[], bool], stack: Stack, *, seconds: float = 30) -> None:
    """Until it is so; raises `NotSo`."""
    deadline = time.monotonic() + seconds
    while not true():
        alive = stack.process.poll() is None
        if time.monotonic() > deadline or not alive:
            raise NotSo((stack.var / "output.log").read_text()[-4000:])
        time.sleep(0.05)


def _settings(path: Path) -> dict[str, str]:
    pairs = (line.partition("=") for line in path.read_text().splitlines())
    return {name: value for name, _, value in pairs}
