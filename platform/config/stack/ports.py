"""Ports: the web's is the user's choice, the servers' are chosen once and remembered."""

import json
import socket
from pathlib import Path

from kit.embedded import LOCAL, free_port, write_private


class PortTaken(Exception):
    """Somebody else listens on the web port."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(
            f"Port {port} of {host} is taken by another program. "
            f"Choose another one: make run PORT={free_port()}"
        )


def claim(host: str, port: int) -> None:
    """Raise `PortTaken` unless the web server could listen there."""
    if not is_free(host, port):
        raise PortTaken(host, port)


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    try:
        with socket.create_server((host, port)):
            return True
    except OSError:
        return False


def remembered(path: Path, name: str) -> int:
    """The port kept for `name`; a new one if there is none yet or it was taken meanwhile."""
    known = _read(path)
    if name not in known or not is_free(LOCAL, known[name]):
        known[name] = free_port()
        write_private(path, json.dumps(known, indent=2) + "\n")
    return known[name]


def _read(path: Path) -> dict[str, int]:
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {name: port for name, port in known.items() if isinstance(port, int)}
