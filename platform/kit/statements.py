"""How long the database works at a statement that serves no model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.conf import settings
from django.db import connection


@contextmanager
def in_time() -> Iterator[None]:
    """No statement on this thread's connection takes longer than `settings.MANAGEMENT_SECONDS`."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET statement_timeout = {settings.MANAGEMENT_SECONDS * 1000}")
    connection.connection.is_hurried = True
    try:
        yield
    finally:
        if connection.connection is not None:
            _unhurried()


def as_lent(lent: Any) -> None:
    """A connection goes back to its pool, perhaps in the midst of `in_time`: for the next it is as
    it was."""
    if getattr(lent, "is_hurried", False) and not lent.closed:
        lent.execute("RESET statement_timeout")
        lent.is_hurried = False


def _unhurried() -> None:
    try:
        as_lent(connection.connection)
    except psycopg.Error:
        connection.close()
