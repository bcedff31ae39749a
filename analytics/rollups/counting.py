"""Counting the history: what is due is taken away in the statement that adds it to the sums.

So a request is counted once, whoever counts, and whatever dies meanwhile.
"""

from functools import lru_cache

from django.db import connection, transaction
from psycopg import sql

from analytics.rollups.durations import BOUNDS, STEPS

AT_ONCE = 20_000
_GROUP = ("span", "start", "model", "key", "project")
_SUMS = {
    "requests": "count(*)",
    "cancelled": "count(*) FILTER (WHERE state = 'cancelled')",
    "failed": "count(*) FILTER (WHERE state = 'failed')",
    "cache_hits": "count(*) FILTER (WHERE cache <> '')",
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
), counted AS (
    INSERT INTO {rollups} AS sum ({columns})
    SELECT {group}, {sums} FROM spans GROUP BY {group}
    ON CONFLICT ({group}) DO UPDATE SET {added}
)
SELECT count(*) FROM due
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
        "sums": [*_SUMS.values(), *counts],
        "added": added,
    }
    return (
        sql.SQL(_COUNT)
        .format(
            due=sql.Identifier(schema, "inference_requestdue"),
            requests=sql.Identifier(schema, "inference_request"),
            rollups=sql.Identifier(schema, "rollups_rollup"),
            **{name: sql.SQL(", ".join(each)) for name, each in parts.items()},
        )
        .as_string()
    )


def _each(part: str) -> str:
    return ", ".join(part % (step, step) for step in range(1, STEPS + 1))
