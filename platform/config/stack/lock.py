"""One stack a checkout: a lock that the kernel gives up when its holder dies, however it dies."""

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Holder:
    """Who runs the stack, and where it answers."""

    pid: int
    url: str


class AlreadyRunning(Exception):
    """Another process holds the lock; `holder` is None if it has only just taken it."""

    def __init__(self, holder: Holder | None) -> None:
        super().__init__("The stack is running already.")
        self.holder = holder


class Lock:
    """Held from `acquire` to `release`, or to the end of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def acquire(self, url: str) -> None:
        """Take the lock and write who we are; raises `AlreadyRunning`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _locked(file):
            os.close(file)
            raise AlreadyRunning(self._read())
        self._file = file
        os.ftruncate(file, 0)
        os.write(file, json.dumps(asdict(Holder(os.getpid(), url))).encode())

    def release(self) -> None:
        """Give the lock up. The file stays: removing it would let two processes hold one each."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None

    def holder(self) -> Holder | None:
        """Who holds it now; None if nobody does."""
        try:
            file = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._read()
        else:
            return None
        finally:
            os.close(file)

    def _read(self) -> Holder | None:
        """The holder's note, which follows the lock by an instant."""
        for _ in range(50):
            try:
                return Holder(**json.loads(self.path.read_text()))
            except (ValueError, TypeError):
                time.sleep(0.02)
        return None


def _locked(file: int) -> bool:
    """Lock the file; whoever only asks for its holder locks it too, but for an instant."""
    for _ in range(5):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False
