"""The C sources as a shared library, compiled once for each CPU and environment.

The compiler comes from the `ziglang` wheel; the environment's KERNELS_CC, if set, is the command
that is used instead, with its flags for the CPU.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

_HERE = Path(__file__).parent
_KEPT = Path(sys.prefix) / "share" / "ai-inference-platform"
_FLAGS = (
    "-std=gnu11",
    "-O3",
    "-ffp-contract=off",
    "-fPIC",
    "-shared",
    "-Wall",
    "-Wextra",
    "-Werror",
)


class NoKernels(Exception):
    """The kernels cannot be compiled here; the message says what to do about it."""


@cache
def load_library() -> ctypes.CDLL:
    """The kernels for this CPU, compiled unless they are there; some seconds. Raises NoKernels.

    They are kept in the environment of Python; where that is read-only, each process compiles them
    for itself.
    """
    sources = sorted([*_HERE.glob("*.c"), *_HERE.glob("*.h")])
    parts = [_cpu(), *map(str.encode, _compiler()), *(source.read_bytes() for source in sources)]
    name = f"kernels-{hashlib.sha256(bytes(1).join(parts)).hexdigest()[:16]}.so"
    if not (_KEPT / name).is_file():
        try:
            _KEPT.mkdir(parents=True, exist_ok=True)
            _compile(_KEPT, name)
        except OSError:
            with tempfile.TemporaryDirectory(prefix="kernels-") as folder:
                _compile(Path(folder), name)
                return ctypes.CDLL(str(Path(folder) / name))
    return ctypes.CDLL(str(_KEPT / name))


def _compile(target: Path, name: str) -> None:
    """Whole or not at all, whoever else compiles the same."""
    with tempfile.TemporaryDirectory(dir=target, prefix=".kernels-") as folder:
        made = Path(folder) / name
        sources = map(str, sorted(_HERE.glob("*.c")))
        command = [*_compiler(), *_FLAGS, "-o", str(made), *sources, "-lm", "-pthread"]
        cache = {"ZIG_GLOBAL_CACHE_DIR": folder, "ZIG_LOCAL_CACHE_DIR": folder}
        try:
            done = subprocess.run(  # noqa: S603  a compiler of ours or the operator's
                command,
                check=False,
                capture_output=True,
                text=True,
                env={**os.environ, **cache},
                stdin=subprocess.DEVNULL,
            )
        except FileNotFoundError as error:
            raise NoKernels(
                f"There is no C compiler {command[0]!r}. Unset KERNELS_CC, or set it to one."
            ) from error
        if done.returncode:
            raise NoKernels(
                f"The kernels did not compile ({shlex.join(command)}):\n{done.stderr[-2000:]}\n"
                "Install the compiler again (.venv/bin/pip install --force-reinstall ziglang), "
                "or set KERNELS_CC to clang 17 or newer, as in 'clang -march=native'."
            )
        made.replace(target / name)


def _compiler() -> list[str]:
    named = os.environ.get("KERNELS_CC")
    if named:
        return shlex.split(named)
    return [sys.executable, "-m", "ziglang", "cc", "-mcpu=native"]


def _cpu() -> bytes:
    """What decides which instructions there are."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor().encode()
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)})).encode()
