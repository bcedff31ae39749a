"""The kernels as a shared library, compiled once for each CPU.

The C compiler comes from the `ziglang` wheel; the environment's CC, if set, is used instead.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

_FLAGS = ("-std=c11", "-O3", "-ffp-contract=off", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror")


class NoKernels(Exception):
    """The kernels cannot be compiled here; the message says what to do about it."""


def load_library(folder: Path) -> ctypes.CDLL:
    """The kernels for this CPU, compiled into `folder` unless they are there. Raises NoKernels."""
    source = files(__package__) / "kernels.c"
    code = source.read_bytes()
    digest = hashlib.sha256(b"\0".join([code, _cpu(), *map(str.encode, _compiler())]))
    path = folder / f"kernels-{digest.hexdigest()[:16]}.so"
    if not path.is_file():
        try:
            _compile(code, path)
        except OSError as error:
            raise NoKernels(
                f"The kernels for this CPU cannot be written to {folder} ({error.strerror}). "
                "Prepare the model on a machine with this CPU, or make the folder writable."
            ) from error
    return ctypes.CDLL(str(path))


def _compile(code: bytes, path: Path) -> None:
    """Whole or not at all, whoever else compiles the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".kernels-") as folder:
        source, made = Path(folder) / "kernels.c", Path(folder) / "kernels.so"
        source.write_bytes(code)
        cache = {"ZIG_GLOBAL_CACHE_DIR": folder, "ZIG_LOCAL_CACHE_DIR": folder}
        command = [*_compiler(), *_FLAGS, "-o", str(made), str(source), "-lm"]
        try:
            subprocess.run(  # noqa: S603  a compiler of ours or the operator's
                command,
                check=True,
                capture_output=True,
                text=True,
                env={**os.environ, **cache},
                stdin=subprocess.DEVNULL,
            )
        except FileNotFoundError as error:
            raise NoKernels(
                f"There is no C compiler {command[0]!r}. Unset CC, or set it to one."
            ) from error
        except subprocess.CalledProcessError as error:
            raise NoKernels(
                f"The kernels did not compile ({shlex.join(command)}):\n{error.stderr[-2000:]}\n"
                "Install the wheel again (.venv/bin/pip install --force-reinstall ziglang), "
                "or set CC to a clang of version 17 or newer."
            ) from error
        made.replace(path)


def _compiler() -> list[str]:
    named = os.environ.get("CC")
    if named:
        return [*shlex.split(named), "-march=native"]
    return [sys.executable, "-m", "ziglang", "cc", "-mcpu=native"]


def _cpu() -> bytes:
    """What decides which instructions there are."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor().encode()
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)})).encode()
