"""The life of a stack: real servers, real processes, a toy in the place of web and worker."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from redis import Redis

from config.stack import environment
from config.stack.layout import Layout
from config.stack.screen import Screen
from config.stack.servers import Servers
from config.stack.supervisor import heal
from kit.embedded import LOCAL, ServerFailed, Valkey, free_port
from tests.stack import stand_in

WORKER = "worker: exec sleep 600"


class Stack:
    """A stand-in stack in a folder of its own, driven from outside."""

    def __init__(self, root: Path, *, procfile: str) -> None:
        self.root = root
        self.layout = Layout(root, root / "var")
        self.port = free_port()
        self.process: subprocess.Popen[bytes]
        (root / "web.py").write_text(stand_in.WEB)
        (root / "Procfile").write_text(
            f"web: exec {shlex.quote(sys.executable)} web.py\n{procfile}\n"
        )

    def start(self) -> "subprocess.Popen[bytes]":
        """`make run`."""
        outside = {"DATABASE_URL", "REDIS_URL", "VAR_DIR"}
        self.said = self.root / f"said-{time.monotonic_ns()}"
        with self.said.open("w") as said:
            self.process = subprocess.Popen(  # noqa: S603
                [sys.executable, stand_in.__file__, str(self.root), str(self.port)],
                env={name: value for name, value in os.environ.items() if name not in outside},
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        return self.process

    def await_ready(self) -> None:
        """Until the banner is out."""
        until(lambda: "is ready" in self.said.read_text() or self.process.poll() is not None)
        assert self.layout.quickstart.exists(), self.output()

    def output(self) -> str:
        """What it printed; waits for its end."""
        self.process.wait(60)
        return self.said.read_text()

    def end(self) -> str:
        """`make stop`."""
        self.process.send_signal(signal.SIGTERM)
        return self.output()

    def members(self) -> list[psutil.Process]:
        """Every process of the stack but the supervisor."""
        var, found = str(self.layout.var), []
        for process in psutil.process_iter():
            try:
                if process.cwd().startswith(var) or process.environ().get(environment.MARK) == var:
                    found.append(process)
            except psutil.Error:
                continue
        return found


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not pytest's own: it closes its folders to others, and as root PostgreSQL is another."""
    with tempfile.TemporaryDirectory(prefix="platform-stack-") as path:
        yield Path(path).resolve()


@pytest.fixture
def stack(folder: Path) -> Iterator[Stack]:
    stack = Stack(folder, procfile=WORKER)
    yield stack
    if stack.process.poll() is None:
        stack.end()
    heal(stack.layout, Screen())


def test_a_stack_starts_says_how_to_use_it_and_leaves_nothing_behind(stack: Stack) -> None:
    stack.start()
    stack.await_ready()
    quickstart = environment.read(stack.layout.quickstart)
    assert quickstart == {
        "OPENAI_BASE_URL": f"http://127.0.0.1:{stack.port}/v1",
        "OPENAI_API_KEY": "aip_live_x",
    }
    assert stack.layout.quickstart.stat().st_mode & 0o777 == 0o600
    values = environment.read(stack.layout.environment)
    with psycopg.connect(values["DATABASE_URL"]) as connection:
        connection.execute("CREATE EXTENSION vector")
    with Redis.from_url(values["REDIS_URL"]) as redis:
        assert redis.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert redis.config_get("appendonly") == {"appendonly": "yes"}
    printed = stack.end()
    assert stack.process.returncode == 0
    assert "curl -N http://127.0.0.1" in printed
    assert not stack.layout.quickstart.exists()
    assert stack.members() == []


def test_a_second_stack_says_that_one_is_running_and_where(stack: Stack) -> None:
    stack.start()
    stack.await_ready()
    first = stack.process
    second = stack.start()
    assert second.wait(30) == 1
    assert f"process {first.pid}, http://127.0.0.1:{stack.port}" in stack.output()
    assert stack.layout.quickstart.exists()
    stack.process = first


def test_a_killed_stack_heals_at_the_next_start_and_keeps_its_data(stack: Stack) -> None:
    stack.start()
    stack.await_ready()
    before = environment.read(stack.layout.environment)
    with psycopg.connect(before["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("CREATE TABLE kept ()")
    stack.process.kill()
    stack.output()
    orphans = stack.members()
    assert orphans
    stack.start()
    stack.await_ready()
    assert not set(orphans) & set(stack.members())
    after = environment.read(stack.layout.environment)
    assert after == before
    with psycopg.connect(after["DATABASE_URL"]) as connection:
        connection.execute("SELECT * FROM kept")
    assert "2 of its processes were still there" in stack.end()


def test_a_process_and_a_server_that_die_are_started_again(stack: Stack) -> None:
    stack.start()
    stack.await_ready()
    victims = [p for p in stack.members() if p.name() in {"sleep", "valkey-server"}]
    assert len(victims) == 2
    for process in victims:
        process.kill()
    until(
        lambda: (
            {"sleep", "valkey-server"} <= {p.name() for p in stack.members() if p not in victims}
        )
    )
    printed = stack.end()
    assert "worker ended with code -9; it starts again in 0.5 s" in printed
    assert "Valkey had ended; it runs again" in printed


def test_a_server_that_cannot_start_again_is_tried_again_but_not_for_ever(tmp_path: Path) -> None:
    server = Valkey(tmp_path, port=free_port())
    server.start()
    servers = Servers("", server.url, [server])

    def revive_often() -> None:
        while True:
            assert servers.revive() == []

    server.stop()
    with socket.socket() as taken:
        taken.bind((LOCAL, server.port))
        assert servers.revive() == []
    assert servers.revive() == ["Valkey"]
    assert servers.revive() == []
    server.stop()
    with socket.socket() as taken:
        taken.bind((LOCAL, server.port))
        with pytest.raises(ServerFailed):
            revive_often()
    servers.stop()


def test_quickstart_follows_the_health_of_the_stack(stack: Stack) -> None:
    stack.start()
    stack.await_ready()
    ill = stack.root / "ill"
    ill.touch()
    until(lambda: not stack.layout.quickstart.exists())
    ill.unlink()
    until(stack.layout.quickstart.exists)


def test_a_process_that_keeps_dying_ends_the_stack_with_its_last_words(folder: Path) -> None:
    stack = Stack(folder, procfile="worker: echo no such model; exit 3")
    stack.start()
    printed = stack.output()
    assert stack.process.returncode == 1
    assert "worker ended 5 times in a row" in printed
    assert "no such model" in printed
    assert stack.members() == []


def test_a_taken_port_is_named_together_with_the_way_out(stack: Stack) -> None:
    stack.start()
    stack.await_ready()
    other = Stack(stack.root, procfile=WORKER)
    other.layout = Layout(stack.root / "other", stack.root / "other" / "var")
    other.root = stack.root / "other"
    other.root.mkdir()
    other.port = stack.port
    other.start()
    printed = other.output()
    assert other.process.returncode == 1
    assert f"Port {stack.port} of 127.0.0.1 is taken" in printed
    assert "make run PORT=" in printed
