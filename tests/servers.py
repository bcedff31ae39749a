"""A pytest plugin: embedded PostgreSQL and Valkey for the whole run, started before Django.

Settings read the environment when they are imported, so this module is loaded by `-p`. A
DATABASE_URL or REDIS_URL from outside wins. Each pytest-xdist worker gets its own databases.
"""

import atexit
import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psutil
import pytest

from kit.embedded import Postgres, Server, ServerFailed, Valkey, free_port

_PREFIX = "platform-tests-"
_running: list[Server] = []


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Put the servers' addresses, and a state folder of the run's own, into the environment."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        url, number = os.environ["REDIS_URL"], 2 * (int(worker.removeprefix("gw")) + 1)
        os.environ["REDIS_URL"] = _database(url, number)
        os.environ["CACHE_URL"] = _database(url, number + 1)
        return
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    atexit.register(_stop, folder)
    os.environ["VAR_DIR"] = str(folder / "var")
    (folder / "var" / "static").mkdir(parents=True)
    if "DATABASE_URL" not in os.environ:
        os.environ["DATABASE_URL"] = _start(Postgres(folder / "postgres", port=0, durable=False))
    if "REDIS_URL" not in os.environ:
        os.environ["REDIS_URL"] = _start(Valkey(folder / "valkey", port=0, durable=False))


def _stop(folder: Path) -> None:
    while _running:
        _running.pop().stop()
    _remove(folder)


def _start(server: Server) -> str:
    _running.append(server)
    for attempts_left in (2, 1, 0):
        server.port = free_port()
        try:
            server.start()
            break
        except ServerFailed:
            if not attempts_left:
                raise
    return server.url


def _database(url: str, number: int) -> str:
    """State and cache are apart for each worker: 2 and 3, 4 and 5, …"""
    return urlunsplit(urlsplit(url)._replace(path=f"/{number}"))


def _sweep() -> None:
    """End and remove what a killed test run left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        found = re.match(rf"{_PREFIX}(\d+)-", folder.name)
        if found and not psutil.pid_exists(int(found[1])) and os.access(folder, os.W_OK):
            Postgres(folder / "postgres", port=0).end_leftovers()
            Valkey(folder / "valkey", port=0).end_leftovers()
            _remove(folder)


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
