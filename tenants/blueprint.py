"""Organizations' schemas: made in milliseconds, and brought up to date many at a time.

A schema has the migrations of the tenants' apps, and of what those build on, alone: at every one
Django imagines all models that it knows of, which takes seconds for every app's. A process migrates
one schema, notes each statement, and for the next that has the same migrations says them again, in
one transaction: what migrations do to one, they do to another. Not so where a migration runs code
over rows (an empty schema has none), or wants no transaction, or says the schema's name itself:
that one is migrated each time.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from multiprocessing import get_context
from threading import Lock
from typing import Any

from django.apps import apps
from django.conf import settings
from django.db import connection, transaction
from django.db.migrations import Migration
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django_tenants.utils import schema_context, schema_exists
from psycopg import sql

Statement = tuple[Any, Any, bool]
"""SQL, its parameters, and whether it is said once for each of many."""

_LEFT_OUT = ("SELECT", "SET search_path", "SHOW search_path")
"""What names the schema, and what only looks."""
_one_at_a_time = Lock()
_statements: dict[frozenset[tuple[str, str]], list[Statement]] = {}
"""What completes a schema, by the migrations that it has."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """A schema that was brought up to date, or why it could not be."""

    schema: str
    error: str = ""


def complete(schema: str) -> bool:
    """Make an organization's schema, or what it lacks; False where somebody else is at it."""
    with _alone(schema) as alone:
        if alone:
            _bring_up_to_date(schema)
    return alone


def _bring_up_to_date(schema: str) -> None:
    applied = frozenset(_applied(schema)) & frozenset(_wanted())
    if applied not in _statements:
        with _one_at_a_time:
            if applied not in _statements:
                _note(schema, applied)
                return
    _repeat(schema, _statements[applied])


def _note(schema: str, applied: frozenset[tuple[str, str]]) -> None:
    """Migrate, and note how, if that can be said again."""
    lacking = [each for name, each in _wanted().items() if name not in applied]
    if not schema_exists(schema):
        _create(schema)
    if not lacking:
        return
    with _noted() as said:
        _migrate(schema)
    names_it = any(schema in f"{statement}{parameters}" for statement, parameters, _ in said)
    if not names_it and (not applied or all(_is_sql(each) for each in lacking)):
        _statements[applied] = said


def _repeat(schema: str, statements: list[Statement]) -> None:
    with transaction.atomic():
        if not schema_exists(schema):
            _create(schema)
        with schema_context(schema), connection.cursor() as cursor:
            for statement, parameters, many in statements:
                (cursor.executemany if many else cursor.execute)(statement, parameters)


def _is_sql(migration: Migration) -> bool:
    """Whether it is statements alone, the same for every schema, in a transaction."""
    inner = (getattr(each, "database_operations", [each]) for each in migration.operations)
    return migration.atomic and all(each.reduces_to_sql for each in chain.from_iterable(inner))


def _migrate(schema: str) -> None:
    with schema_context(schema):
        executor = MigrationExecutor(connection)
        executor.recorder.ensure_schema()
        wanted, applied = _wanted(), executor.loader.applied_migrations or {}
        state = executor.loader.project_state([name for name in wanted if name in applied])
        for name, migration in wanted.items():
            if name not in applied:
                state = executor.apply_migration(state, migration)


def _wanted() -> dict[tuple[str, str], Migration]:
    """What an organization's schema must have, each behind those on which it builds."""
    graph = MigrationLoader(None, ignore_no_migrations=True).graph
    labels = [each.label for each in apps.get_app_configs() if each.name in settings.TENANT_APPS]
    leaves = [leaf for label in labels for leaf in graph.leaf_nodes(label)]
    return {name: graph.nodes[name] for leaf in leaves for name in graph.forwards_plan(leaf)}


def behind(schemas: Iterable[str]) -> list[str]:
    """Those that lack a migration, or stand nowhere yet."""
    wanted = set(_wanted())
    return [schema for schema in schemas if not wanted <= _applied(schema)]


def migrate_many(schemas: list[str], *, processes: int) -> Iterator[Migrated]:
    """Bring schemas up to date, so many at a time; one that fails does not stop the others."""
    _let_go()
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        for done in as_completed(pool.submit(_migrated, schema) for schema in schemas):
            yield done.result()


def _migrated(schema: str) -> Migrated:
    try:
        if not complete(schema):
            return Migrated(schema, "somebody else is making it now; run this again")
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


@contextmanager
def _alone(schema: str) -> Iterator[bool]:
    """Whether nobody else makes this schema meanwhile, in any process.

    The lock is a transaction's, on a connection of its own: a pool would hand one that a session
    holds on to the next who asks, and what holds it ends with the process, however that dies.
    """
    holder = connection.copy()
    holder.settings_dict["OPTIONS"]["pool"] = False
    try:
        holder.set_autocommit(False)
        with holder.cursor() as cursor:
            cursor.execute(
                "SELECT pg_try_advisory_xact_lock(hashtext('schemas'), hashtext(%s))", [schema]
            )
            [(alone,)] = cursor.fetchall()
            yield bool(alone)
    finally:
        holder.close()


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
