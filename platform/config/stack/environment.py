"""`var/stack.env`: addresses of this run, and secrets that are made once and kept."""

import base64
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from kit.embedded import write_private

SECRETS = ("SECRET_KEY", "KEY_PEPPER")
ENCRYPTION = "KEY_ENCRYPTION_KEYS"
MARK = "PLATFORM_STACK"
"""In the environment of each process of a stack: its state folder, by which orphans are found."""


def write(path: Path, addresses: Mapping[str, str]) -> dict[str, str]:
    """Write the addresses beside the secrets, and return all of them.

    A secret is the environment's, or else the one kept from the last start, or else a new one.
    """
    known = read(path)
    made = {
        name: os.environ.get(name) or known.get(name) or secrets.token_urlsafe(48)
        for name in SECRETS
    }
    made[ENCRYPTION] = os.environ.get(ENCRYPTION) or known.get(ENCRYPTION) or _encryption_key()
    values = {**addresses, **made}
    write_private(path, "".join(f"{name}={value}\n" for name, value in values.items()))
    return values


def _encryption_key() -> str:
    """The first key-encryption key; see `kit.keepers.local`."""
    return "1:" + base64.b64encode(secrets.token_bytes(32)).decode()


def read(path: Path) -> dict[str, str]:
    """What the file says; nothing if there is none."""
    if not path.is_file():
        return {}
    lines = (line.partition("=") for line in path.read_text().splitlines())
    return {name: value for name, separator, value in lines if separator}


def of_processes(
    values: Mapping[str, str], *, root: Path, var: Path, metrics: Path, host: str, port: int
) -> dict[str, str]:
    """The environment of the stack's processes: ours, the file's values, and where things are."""
    return {
        **os.environ,
        **values,
        "PYTHONUNBUFFERED": "1",
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "platform")]),
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        "VAR_DIR": str(var),
        "HOST": host,
        "PORT": str(port),
        MARK: str(var),
    }
