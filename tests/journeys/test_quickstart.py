"""The examples of docs/quickstart.md, run as they stand there."""

import shutil
import subprocess
from pathlib import Path

import pytest

from config.stack.apart import Stack
from tests.journeys.examples import examples

pytestmark = pytest.mark.timeout(500)


@pytest.fixture(autouse=True)
def quickstart(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `. var/quickstart.env` says."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"{stack.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", stack.key)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_what_it_says_for_curl_is_answered() -> None:
    chat, stream, costs = (run("sh", "-ec", each) for each in examples("sh"))
    assert '"finish_reason":' in chat
    assert "event: token" in stream
    assert "event: done" in stream
    assert '"totals":' in costs


def test_what_it_says_for_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for each in examples("python"):
        exec(compile(each, "docs/quickstart.md", "exec"), {"__name__": "example"})  # noqa: S102
        said.append(capsys.readouterr().out)
    stream, parsed, many, socket = said
    assert " tokens, 0.0000" in stream
    assert "sky=" in parsed
    assert "2 vectors of 384" in many
    again = [line.split(" ", 1)[0] for line in many.splitlines() if line.startswith("resp_")]
    assert len(again) == 2
    assert again[0] == again[1]
    assert socket.count("'type': 'done'") == 2


@pytest.mark.skipif(not shutil.which("node"), reason="there is no Node.js")
def test_what_it_says_for_javascript_without_packages_runs(tmp_path: Path) -> None:
    fetched, socket = (each for each in examples("javascript") if "import " not in each)
    for text, said in ((fetched, " EUR"), (socket, "type: 'done'")):
        script = tmp_path / "example.mjs"
        script.write_text(text)
        assert said in run("node", "--experimental-websocket", "--no-warnings", str(script))
