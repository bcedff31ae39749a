"""Organizations' schemas: made in milliseconds, and brought up to date many at a time.

Migrating an empty schema costs seconds, nearly all of them Django's, which imagines every app's
models at every migration. So a process does it once, notes each statement, and for the next schema
says them again, in one transaction: what migrations do to one empty schema, they do to another. A
migration that says the schema's name itself is never noted.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from threading import Lock
from typing import Any

from django.core.management import call_command
from django.db import connection, transaction
from django.db.migrations.loader import MigrationLoader
from django_tenants.utils import schema_context, schema_exists
from psycopg import sql

Statement = tuple[Any, Any, bool]
"""SQL, its parameters, and whether it is said once for each of many."""

_LEFT_OUT = ("SELECT", "SET search_path", "SHOW search_path")
"""What names the schema, and what only looks."""
_one_at_a_time = Lock()
_statements: list[Statement] = []


@dataclass(frozen=True, slots=True)
class Migrated:
    """A schema that was brought up to date, or why it could not be."""

    schema: str
    error: str = ""


def make(schema: str) -> bool:
    """Make an organization's schema with all its tables; False if it stands already."""
    if schema_exists(schema):
        return False
    with _one_at_a_time:
        if not _statements:
            _create(schema)
            with _noted() as said:
                migrate(schema)
            if not any(schema in f"{statement}{parameters}" for statement, parameters, _ in said):
                _statements.extend(said)
            return True
    with transaction.atomic():
        _create(schema)
        with schema_context(schema), connection.cursor() as cursor:
            for statement, parameters, many in _statements:
                (cursor.executemany if many else cursor.execute)(statement, parameters)
    return True


def migrate(schema: str) -> None:
    """Bring one schema up to date."""
    call_command("migrate_schemas", tenant=True, schema_name=schema, interactive=False, verbosity=0)
    connection.set_schema_to_public()  # type: ignore[attr-defined]


def behind(schemas: Iterable[str]) -> list[str]:
    """Those that lack a migration, or stand nowhere yet."""
    wanted = set(MigrationLoader(None, ignore_no_migrations=True).disk_migrations or ())
    return [schema for schema in schemas if not wanted <= _applied(schema)]


def migrate_many(schemas: list[str], *, processes: int) -> Iterator[Migrated]:
    """Bring schemas up to date, so many at a time; one that fails does not stop the others."""
    _let_go()
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        for done in as_completed(pool.submit(_migrated, schema) for schema in schemas):
            yield done.result()


def _migrated(schema: str) -> Migrated:
    try:
        if not make(schema):
            migrate(schema)
    except Exception as error:
        return Migrated(schema, f"{type(error).__name__}: {error}")
    finally:
        _let_go()
    return Migrated(schema)


def _let_go() -> None:
    """Close connection and pool: a forked process has no use for another's sockets and threads."""
    connection.close()
    if connection.settings_dict["OPTIONS"].get("pool"):
        connection.close_pool()  # type: ignore[attr-defined]


def _create(schema: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))


def _applied(schema: str) -> set[tuple[str, str]]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s)", [f'"{schema}".django_migrations'])
        if cursor.fetchone()[0] is None:
            return set()
        table = sql.Identifier(schema, "django_migrations")
        cursor.execute(sql.SQL("SELECT app, name FROM {}").format(table))
        return set(cursor.fetchall())


@contextmanager
def _noted() -> Iterator[list[Statement]]:
    """Every statement of this connection meanwhile, but those that name the schema."""
    said: list[Statement] = []

    def note(
        execute: Callable[..., Any], statement: Any, parameters: Any, many: bool, context: Any
    ) -> Any:
        if not str(statement).lstrip().startswith(_LEFT_OUT):
            said.append((statement, parameters, many))
        return execute(statement, parameters, many, context)

    with connection.execute_wrapper(note):
        yield said
