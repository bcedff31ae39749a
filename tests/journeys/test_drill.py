"""A short drill: processes killed under load, and books that must be right."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from config.stack.apart import ROOT

pytestmark = pytest.mark.timeout(400)


def test_nothing_is_lost_and_nothing_twice_whoever_is_killed(tmp_path: Path) -> None:
    done = subprocess.run(  # noqa: S603
        [
            sys.executable,
            "manage.py",
            "drill",
            *("--minutes", "0.4", "--every", "4", "--seed", "7", "--json"),
        ],
        cwd=ROOT,
        env=os.environ | {"VAR_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    verdict = json.loads(done.stdout)
    assert verdict["differences"] == []
    assert verdict["requests"] > 50
    assert sum(verdict["kills"].values()) >= 4


def test_an_unknown_victim_is_refused_with_the_names(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "drill", "--kill", "nobody"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "worker" in done.stderr
