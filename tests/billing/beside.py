"""Steps that run beside each other, each on a connection of its own."""

from collections.abc import Callable
from typing import Any

from django.db import connection


def on_its_own_connection(step: Callable[[], Any]) -> Callable[[], Any]:
    """A step for a thread."""

    def run() -> Any:
        try:
            return step()
        finally:
            connection.close()

    return run


def wait_until_somebody_waits_for_a_lock() -> None:
    with connection.cursor() as cursor:
        for _ in range(100_000):
            cursor.execute("SELECT 1 FROM pg_locks WHERE NOT granted LIMIT 1")
            if cursor.fetchone():
                return
    raise AssertionError("nobody waits")
