"""A model's folder, made whole or not at all."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from inference.engine.manifest import Manifest, NotPrepared, read_manifest, write_manifest

Progress = Callable[[str, float], None]
"""Told what is being done, and which share of the whole is behind."""


class PrepareFailed(Exception):
    """A model that cannot be prepared here; the message says what to do about it."""


@contextmanager
def locked(target: Path, progress: Progress) -> Iterator[None]:
    """Be the only preparer of `target`; what a killed one left half made is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another process that prepares this model", 0.0)
            fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in (_half(target), _old(target)):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def prepared(target: Path) -> Manifest | None:
    """The manifest of a folder that is whole."""
    try:
        return read_manifest(target)
    except NotPrepared:
        return None


def build(target: Path, make: Callable[[Path], Manifest], *, needs: int) -> Manifest:
    """Fill a folder by `make` and put it in `target`'s place; `needs` bytes of disk meanwhile.

    Raises PrepareFailed when the disk cannot hold it.
    """
    free = shutil.disk_usage(target.parent).free
    if free < needs:
        raise PrepareFailed(
            f"{target.parent} has {free >> 20} MiB free; preparing {target.name} needs "
            f"{needs >> 20} MiB. Free some space, or set MODELS_DIR to a larger disk."
        )
    half = _half(target)
    half.mkdir()
    try:
        manifest = make(half)
        write_manifest(half, manifest)
        _replace(target, half)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PrepareFailed(
                f"The disk of {target.parent} is full. Free {needs >> 20} MiB and try again."
            ) from error
        raise
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return manifest


def _replace(target: Path, half: Path) -> None:
    old = _old(target)
    if target.exists():
        target.rename(old)
    half.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _half(target: Path) -> Path:
    return target.parent / f".{target.name}.half"


def _old(target: Path) -> Path:
    return target.parent / f".{target.name}.old"
