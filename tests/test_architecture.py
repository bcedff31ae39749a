"""What holds the rooms apart, and the package together."""

import platform
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

from django.conf import settings

ROOT: Path = settings.BASE_DIR
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_platform_is_the_standard_librarys() -> None:
    assert Path(platform.__file__).parent == Path(sysconfig.get_path("stdlib"))
    assert not (ROOT / "platform" / "__init__.py").exists()


def test_rooms_import_one_way() -> None:
    lint = "from importlinter.cli import lint_imports_command as run; run(['--no-cache'])"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", lint], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_holds_every_package() -> None:
    roots = [ROOT, ROOT / "platform"]
    found = {
        str(init.parent.relative_to(ROOT)) for at in roots for init in at.glob("*/__init__.py")
    }
    packages = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert packages == found - {"tests", "benchmarks"}


def test_every_package_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {_plain(line.split("==")[0]) for line in lines if "==" in line}
    extra = PROJECT["project"]["optional-dependencies"]["dev"]
    asked = {_plain(line) for line in [*PROJECT["project"]["dependencies"], *extra]}
    assert asked <= pinned


def test_no_module_outgrows_its_reader() -> None:
    folders = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    long = {
        str(path.relative_to(ROOT)): lines
        for path in files
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert long == {}


def _plain(requirement: str) -> str:
    name = requirement
    for mark in "[<>=! ":
        name = name.split(mark)[0]
    return name.lower().replace("_", "-").replace(".", "-")
