"""Other people's clients against a platform of our own: `make clients`.

Their packages lie under var/clients, outside what the platform and its tests need. What Node.js
would run is skipped where there is none.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from config.stack.apart import MODEL, ROOT, running
from tests.journeys.examples import examples

SUITES = Path(__file__).parent / "suites"
HOME = ROOT / "var" / "clients"
PYTHON, NODE = HOME / "python", HOME / "node"
EMBEDDING_MODEL = "all-minilm-l6-v2"


def main() -> int:
    """Install what is missing, start a platform, run the suites; how many of them failed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("-k", default="", help="only tests of Python's suites that match")
    wanted = parser.parse_args()
    _install()
    with tempfile.TemporaryDirectory(dir=HOME) as folder, running(Path(folder)) as stack:
        environment = {
            **os.environ,
            "OPENAI_BASE_URL": f"{stack.url}/v1",
            "OPENAI_API_BASE": f"{stack.url}/v1",
            "OPENAI_API_KEY": stack.key,
            "CHAT_MODEL": MODEL,
            "EMBEDDING_MODEL": EMBEDDING_MODEL,
            "DO_NOT_TRACK": "1",
        }
        python = [str(PYTHON / "bin" / "python"), "-m", "pytest", "-q", "-rsxXf", "-c"]
        commands = [[*python, str(SUITES / "pytest.ini"), str(SUITES), "-k", wanted.k]]
        if shutil.which("node") and not wanted.k:
            commands += [
                ["node", "--test", str(NODE / f"{name}.mjs")] for name in ("openai", "aisdk")
            ]
            commands.append(["node", str(NODE / "quickstart.mjs")])
        failed = 0
        for command in commands:
            done = subprocess.run(command, cwd=NODE, env=environment, check=False)  # noqa: S603
            failed += done.returncode != 0
    return failed


def _install() -> None:
    """As pinned; again where a pin has changed."""
    HOME.mkdir(parents=True, exist_ok=True)
    NODE.mkdir(exist_ok=True)
    pins = SUITES.parent / "requirements.txt"
    if _changed(pins, HOME / pins.name):
        _run(sys.executable, "-m", "venv", str(PYTHON))
        _run(str(PYTHON / "bin" / "pip"), "install", "-q", "-r", str(pins))
        shutil.copy(pins, HOME)
    if shutil.which("npm") is None:
        print("No npm on PATH: the clients for Node.js are skipped.")  # noqa: T201
        return
    for suite in SUITES.glob("*.mjs"):
        shutil.copy(suite, NODE)
    [example] = (each for each in examples("javascript") if 'from "openai"' in each)
    (NODE / "quickstart.mjs").write_text(example)
    if _changed(SUITES.parent / "package.json", NODE / "package.json"):
        shutil.copy(SUITES.parent / "package.json", NODE)
        _run("npm", "install", "--no-audit", "--no-fund", "--prefix", str(NODE))


def _changed(pins: Path, installed: Path) -> bool:
    return not installed.is_file() or pins.read_text() != installed.read_text()


def _run(*command: str) -> None:
    subprocess.run(command, check=True)  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
