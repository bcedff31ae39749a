"""Ending processes that may be anyone's children."""

import signal
import time
from collections.abc import Iterable
from contextlib import suppress

import psutil


def end(processes: Iterable[psutil.Process], *, gently: signal.Signals, seconds: float) -> None:
    """Signal all of them, and kill those that are there after `seconds`; returns when none is.

    A zombie counts as gone: its parent, perhaps a lazy init, may take its time.
    """
    left = list(processes)
    _signal(left, gently)
    deadline = time.monotonic() + seconds
    while left := [process for process in left if _lives(process)]:
        if time.monotonic() > deadline:
            _signal(left, signal.SIGKILL)
        time.sleep(0.01)


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
