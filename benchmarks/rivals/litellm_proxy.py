"""LiteLLM's proxy with a model that answers at once: no database, no accounting."""

import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.rivals.building import litellm_command
from kit.embedded import free_port

_KEY = "sk-benchmark"
_CONFIG = f"""\
model_list:
  - model_name: echo
    litellm_params:
      model: openai/echo
      api_key: none
      mock_response: What is AI?
general_settings:
  master_key: {_KEY}
litellm_settings:
  telemetry: false
"""
_START_SECONDS = 180


@contextmanager
def litellm_proxy(folder: Path, *, workers: int) -> Iterator[tuple[str, str]]:
    """A running proxy: its address and a key."""
    config = folder / "litellm.yaml"
    config.write_text(_CONFIG)
    port = free_port()
    options = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "litellm.log").open("w") as log:
        child = subprocess.Popen(  # noqa: S603
            [str(litellm_command()), *options, "--num_workers", str(workers)],
            stdout=log,
            stderr=log,
            env={**os.environ, "LITELLM_LOG": "ERROR"},
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(url, child, folder / "litellm.log")
        yield url, _KEY
    finally:
        os.killpg(child.pid, 15)
        child.wait(30)


def _wait(url: str, child: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        if child.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/health/liveliness", timeout=5):  # noqa: S310
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise SystemExit(f"LiteLLM did not start; its last words:\n{log.read_text()[-2000:]}")
