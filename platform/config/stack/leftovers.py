"""What a killed stack left running: found by its mark, and ended before a new one starts."""

import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from config.stack.environment import MARK
from kit import processes

_SECONDS = 30.0


def end(var: Path) -> int:
    """End the processes of a stack whose supervisor is gone; returns how many there were."""
    found = list(_marked(var))
    processes.end(found, gently=signal.SIGTERM, seconds=_SECONDS)
    return len(found)


def _marked(var: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(var):
                yield process
