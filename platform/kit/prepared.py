"""Statements that run many times a second: bound and planned by the server, once a connection.

Django's cursors bind on this side, so the server parses and plans each statement anew, and
django-tenants sets the search path before each. Here tables must be named with their schema.
"""

from collections.abc import Sequence
from typing import Any

import psycopg
from django.db import connection
from psycopg.sql import Composed


def execute(statement: str | Composed, parameters: Sequence[Any]) -> psycopg.Cursor[Any]:
    """Run it in the present transaction; the cursor has its rows. Raises Django's errors."""
    connection.ensure_connection()
    with connection.wrap_database_errors:
        cursor = psycopg.Cursor(connection.connection)
        return cursor.execute(statement, parameters)
