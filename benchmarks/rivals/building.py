"""Rivals' own environments, made once, outside of the platform's."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from rich.console import Console

from benchmarks.rivals.process import Rival
from benchmarks.rivals.weights import write_checkpoint, write_q8_0

ROOT = Path(__file__).resolve().parents[2]
RIVALS = ROOT / "var" / "rivals"
VERSION = "0.3.36"
LITELLM_VERSION = "1.106.2"
_NEEDLESS = (
    "LLAVA_BUILD",
    "MTMD_BUILD",
    "LLAMA_CURL",
    "LLAMA_BUILD_TESTS",
    "LLAMA_BUILD_EXAMPLES",
    "LLAMA_BUILD_TOOLS",
    "LLAMA_BUILD_SERVER",
)
_HERE = Path(__file__).parent


def llama_cpp(threads: int, clock: str) -> Rival:
    """llama.cpp with the model in Q8_0: 8-bit weights in blocks of 32, activations the same."""
    python = _environment() / "bin" / "python"
    weights = write_q8_0(RIVALS / "smollm2-135m-instruct.Q8_0.gguf")
    worker = _HERE / "llama_worker.py"
    return Rival("llama.cpp Q8_0", [python, worker, weights, str(threads), clock])


def transformers(threads: int, clock: str) -> Rival:
    """transformers' generate in full precision."""
    weights = write_checkpoint(RIVALS / "checkpoint")
    command: list[str | Path] = [
        sys.executable,
        _HERE / "transformers_worker.py",
        weights,
        str(threads),
    ]
    return Rival("transformers fp32", command)


def litellm_command() -> Path:
    """LiteLLM's proxy, installed in an environment of its own when it is missing."""
    folder = RIVALS / f"litellm-{LITELLM_VERSION}"
    command = folder / "bin" / "litellm"
    if not command.exists():
        Console(stderr=True).print(f"Installing LiteLLM {LITELLM_VERSION} (once, some minutes)")
        venv.create(folder, with_pip=True, clear=True)
        python = str(folder / "bin" / "python")
        wanted = f"litellm[proxy]=={LITELLM_VERSION}"
        subprocess.run([python, "-m", "pip", "install", "-q", wanted], check=True)  # noqa: S603
    return command


def _environment() -> Path:
    """The environment with llama-cpp-python; built when it is missing, which takes ten minutes."""
    folder = RIVALS / f"llama-cpp-{VERSION}"
    done = folder / "built"
    if done.exists():
        return folder
    if not (shutil.which("cmake") and shutil.which("c++")):
        raise SystemExit("llama.cpp is compiled here: install cmake and a C++ compiler first.")
    Console(stderr=True).print(f"Building llama-cpp-python {VERSION} (once, about 10 minutes)")
    venv.create(folder, with_pip=True, clear=True)
    flags = " ".join(["-DGGML_NATIVE=ON", *(f"-D{flag}=OFF" for flag in _NEEDLESS)])
    command = ["nice", str(folder / "bin" / "python"), "-m", "pip", "install", "--progress-bar=on"]
    command += ["--no-binary=llama-cpp-python", f"llama-cpp-python=={VERSION}"]
    subprocess.run(command, check=True, env={**os.environ, "CMAKE_ARGS": flags})  # noqa: S603
    done.touch()
    return folder
