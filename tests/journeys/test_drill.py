"""A short drill: processes killed under load, and books that must be right."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from config.stack.apart import ROOT

pytestmark = pytest.mark.timeout(500)


def test_nothing_is_lost_and_nothing_twice_whoever_is_killed(tmp_path: Path) -> None:
    rounds = ("--seed", "7", "13", "--minutes", "0.3", "--every", "4")
    done = subprocess.run(  # noqa: S603
        [sys.executable, "manage.py", "drill", *rounds, "--json"],
        cwd=ROOT,
        env=os.environ | {"VAR_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    verdict = json.loads(done.stdout)
    assert verdict["differences"] == []
    assert verdict["requests"] > 50
    assert verdict["seeds"] == [7, 13]
    assert sum(verdict["kills"].values()) >= 4
    assert verdict["told_to_stop"] > 0
    assert verdict["late_tokens_most"] == 0
