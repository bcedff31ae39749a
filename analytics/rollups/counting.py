"""Counting the history: what is due is taken away in the statement that adds it to the sums.

So a request is counted once, whoever counts, and whatever dies meanwhile.
"""

from functools import lru_cache

from django.db import connection, transaction
from psycopg import sql

from analytics.rollups.durations import BOUNDS, STEPS

AT_ONCE = 20_000
_GROUP = ("span", "start", "model", "key", "project")
_ALONE = ("model", "key", "project")
_SUMS = {
    "requests": "count(*)",
    "cancelled": "count(*) FILTER (WHERE state = 'cancelled')",
    "failed": "count(*) FILTER (WHERE state = 'failed')",
    "cache_hits": "count(*) FILTER (WHERE cache <> '')",
    "semantic_hits": "count(*) FILTER (WHERE cache = 'semantic')",
    "prompt_tokens": "sum(prompt_tokens)",
    "cached_tokens": "sum(cached_tokens)",
    "completion_tokens": "sum(completion_tokens)",
    "amount": "sum(amount)",
}
_TIMES = {"latency": "finished_at", "first_token": "first_token_at"}
_COUNT = """
WITH due AS (
    DELETE FROM {due} WHERE request IN (
        SELECT request FROM {due} ORDER BY request LIMIT %s FOR UPDATE SKIP LOCKED
    ) RETURNING request
), seen AS (
    SELECT r.*, {steps} FROM {requests} r JOIN due ON r.id = due.request
), spans AS (
    SELECT 'hour' AS span, date_trunc('hour', created_at, 'UTC') AS start, * FROM seen
    UNION ALL SELECT 'day', date_trunc('day', created_at, 'UTC'), * FROM seen
), fine AS (
    SELECT {group}, {sums} FROM spans GROUP BY {group}
), counted AS (
    INSERT INTO {rollups} AS sum (per, {columns})
    SELECT '', {columns} FROM fine UNION ALL {alone}
    ON CONFLICT (per, {group}) DO UPDATE SET {added}
)
SELECT count(*) FROM due
"""
_ALONE_OF = """
SELECT CASE 0 {which} END AS per, span, start, {values}, {sums} FROM fine
GROUP BY GROUPING SETS ({sets})
"""


def count(schema: str, *, most: int = 50) -> int:
    """Count what is due in an organization's schema, in so many turns at most; how many it was."""
    counted = 0
    for _ in range(most):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"rollups {schema}"])
            cursor.execute(_statement(schema), [AT_ONCE])
            [(found,)] = cursor.fetchall()
        counted += found
        if found < AT_ONCE:
            break
    return counted


def _alone() -> sql.Composed:
    """A query for the sums by model, by key and by project, of those by all three."""
    sums = [f"sum({name})::bigint AS {name}" for name in _SUMS]
    sums += [f"ARRAY[{_each(f'sum({name}[%d])::int')}] AS {name}" for name in _TIMES]
    return sql.SQL(_ALONE_OF).format(
        which=sql.SQL(" ".join(f"WHEN grouping({name}) THEN '{name}'" for name in _ALONE)),
        values=sql.SQL(", ".join(f"coalesce({name}, '') AS {name}" for name in _ALONE)),
        sums=sql.SQL(", ".join(sums)),
        sets=sql.SQL(", ".join(f"(span, start, {name})" for name in _ALONE)),
    )


@lru_cache(1024)
def _statement(schema: str) -> str:
    names, times = list(_SUMS), list(_TIMES)
    added = [f"{name} = sum.{name} + excluded.{name}" for name in names]
    added += [f"{name} = ARRAY[{_each(f'sum.{name}[%d] + excluded.{name}[%d]')}]" for name in times]
    bounds = ", ".join(f"{each:.3f}" for each in BOUNDS)
    steps = [
        f"width_bucket(extract(epoch FROM r.{end} - r.created_at) * 1000,"
        f" ARRAY[{bounds}]) AS {name}_step"
        for name, end in _TIMES.items()
    ]
    finished = "count(*) FILTER (WHERE state = 'finished' AND {}_step = {})"
    counts = [
        f"ARRAY[{', '.join(finished.format(name, step) for step in range(STEPS))}]"
        for name in times
    ]
    parts = {
        "steps": steps,
        "columns": [*_GROUP, *names, *times],
        "group": _GROUP,
        "sums": [
            f"{made} AS {name}"
            for name, made in zip((*names, *times), (*_SUMS.values(), *counts), strict=True)
        ],
        "added": added,
    }
    return (
        sql.SQL(_COUNT)
        .format(
            due=sql.Identifier(schema, "inference_requestdue"),
            requests=sql.Identifier(schema, "inference_request"),
            rollups=sql.Identifier(schema, "rollups_rollup"),
            alone=_alone(),
            **{name: sql.SQL(", ".join(each)) for name, each in parts.items()},
        )
        .as_string()
    )


def _each(part: str) -> str:
    return ", ".join(part.replace("%d", str(step)) for step in range(1, STEPS + 1))
