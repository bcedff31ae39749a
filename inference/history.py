"""Writing history: rows of many organizations in few statements."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from uuid import UUID

from django.db import ProgrammingError, connection
from django_tenants.utils import schema_context
from psycopg import sql
from psycopg.errors import UndefinedTable

from inference.models import Request
from kit.prepared import execute
from tenants.models import Organization


@dataclass(frozen=True, slots=True)
class Row:
    """A finished request, as `inference.models.Request` keeps it."""

    id: UUID
    state: str
    reason: str
    error: str
    endpoint: str
    model: str
    model_version: str
    key: str
    label: str
    region: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    amount: int
    currency: str
    attempts: int
    created_at: datetime
    started_at: datetime | None
    first_token_at: datetime | None
    finished_at: datetime
    project: str = ""
    cache: str = ""
    reasoning_tokens: int = 0
    kept_seconds: int = 3600


_COLUMNS = tuple(field.name for field in fields(Row))
_values = attrgetter(*_COLUMNS)


class NoSchema(Exception):
    """The organization's schema is gone: it was erased."""


def write(rows: Iterable[tuple[str, Row]]) -> None:
    """Insert (schema, row) pairs, one statement a schema; a row that stands already stays.

    Those that are new are noted as due to be counted by analytics (`inference.models.RequestDue`).

    The schema is named in the statement, so the connection's search path is left alone. Raises
    `NoSchema`.
    """
    by_schema: dict[str, list[Row]] = defaultdict(list)
    for schema, row in rows:
        by_schema[schema].append(row)
    connection.ensure_connection()
    try:
        with connection.connection.pipeline():
            for schema, some in by_schema.items():
                values = [value for row in some for value in _values(row)]
                execute(_insert(schema, len(some)), values)
    except (ProgrammingError, UndefinedTable) as error:
        if isinstance(error.__cause__ or error, UndefinedTable):
            raise NoSchema(str(error)) from error
        raise


@lru_cache(4096)
def _insert(schema: str, rows: int) -> str:
    row = sql.SQL("({})").format(sql.SQL(", ").join(sql.Placeholder() * len(_COLUMNS)))
    statement = sql.SQL(
        "WITH written AS (INSERT INTO {table} ({columns}) VALUES {rows}"
        " ON CONFLICT (id) DO NOTHING RETURNING id)"
        " INSERT INTO {due} (request) SELECT id FROM written"
    ).format(
        table=sql.Identifier(schema, "inference_request"),
        due=sql.Identifier(schema, "inference_requestdue"),
        columns=sql.SQL(", ").join(map(sql.Identifier, _COLUMNS)),
        rows=sql.SQL(", ").join([row] * rows),
    )
    return statement.as_string()


def row(schema: str, request: UUID) -> Row | None:
    """What the history has of a request."""
    with schema_context(schema):
        found = Request.objects.filter(pk=request).values(*_COLUMNS).first()
    return Row(**found) if found else None


@dataclass(frozen=True, slots=True)
class Booked:
    """How a request stands in the history."""

    state: str
    completion_tokens: int
    amount: int
    finished_at: datetime
    kept_seconds: int


def booked(organization: int, request: UUID) -> Booked | None:
    """How a request of that organization was booked; None if it was not."""
    schema = Organization.objects.values_list("schema_name", flat=True).get(pk=organization)
    names = [field.name for field in fields(Booked)]
    with schema_context(schema):
        found = Request.objects.filter(pk=request).values_list(*names).first()
    return Booked(*found) if found else None
