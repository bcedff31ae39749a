"""One stack a checkout, whatever happens to its process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from config.stack.lock import AlreadyRunning, Holder, Lock

HOLD = """
import sys, time
from pathlib import Path
from config.stack.lock import Lock
Lock(Path(sys.argv[1])).acquire("http://there")
print("held", flush=True)
time.sleep(600)
"""


def test_the_lock_names_its_holder(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "run" / "stack.lock")
    assert lock.holder() is None
    lock.acquire("http://here")
    assert Lock(lock.path).holder() == Holder(os.getpid(), "http://here")
    with pytest.raises(AlreadyRunning) as refusal:
        Lock(lock.path).acquire("http://elsewhere")
    assert refusal.value.holder == Holder(os.getpid(), "http://here")
    lock.release()
    assert lock.holder() is None


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "stack.lock"
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert Lock(path).holder() == Holder(process.pid, "http://there")
        process.send_signal(signal.SIGKILL)
    lock = Lock(path)
    assert lock.holder() is None
    lock.acquire("http://here")
    lock.release()


def test_a_note_cut_short_by_a_kill_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "stack.lock"
    path.write_text('{"pid": 12')
    lock = Lock(path)
    assert lock.holder() is None
    lock.acquire("http://here")
    assert lock.holder() == Holder(os.getpid(), "http://here")
    lock.release()
