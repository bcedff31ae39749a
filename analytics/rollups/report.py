"""What an organization's requests came to, from the sums: by hour or day, model, key, project."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from django.db import connection
from django_tenants.utils import schema_context
from psycopg import sql

from analytics.rollups.durations import STEPS, added, percentile
from analytics.rollups.models import Rollup
from kit.errors import Invalid
from tenants.models import Organization

MOST_GROUPS = 5_000
LONGEST = {Rollup.Span.HOUR: timedelta(days=7), Rollup.Span.DAY: timedelta(days=400)}
_COUNTS = (
    "requests", "cancelled", "failed", "cache_hits", "semantic_hits",
    "prompt_tokens", "cached_tokens", "completion_tokens", "amount",
)  # fmt: skip
_TIMES = ("latency", "first_token")
_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


class By(StrEnum):
    """What requests can be grouped by."""

    HOUR = "hour"
    DAY = "day"
    MODEL = "model"
    KEY = "key"
    PROJECT = "project"


@dataclass(frozen=True, slots=True)
class Asked:
    """Which requests; empty fields let all through. From `since` up to `until`, aware times."""

    since: datetime
    until: datetime
    by: Sequence[By] = ()
    model: str = ""
    key: str = ""
    project: str = ""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of requests that are alike: by what, counts, nanos, and ms by percentile (None: nothing
    finished)."""

    of: Mapping[str, str]
    requests: int
    cancelled: int
    failed: int
    cache_hits: int
    semantic_hits: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    amount: int
    latency: Mapping[str, float | None]
    first_token: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Report:
    """The whole hours or days from `since` up to `until`: all of it, and by group."""

    span: str
    since: datetime
    until: datetime
    totals: Figures
    groups: list[Figures]


def report(organization: int, asked: Asked) -> Report:
    """Sum it; raises `Invalid` for too long a time, or too many groups.

    Whole days are summed unless hours are asked for, by `By.HOUR` or by where the time begins or
    ends.
    """
    span, since, until = _span(asked)
    schema = Organization.objects.values_list("schema_name", flat=True).get(pk=organization)
    with schema_context(schema), connection.cursor() as cursor:
        cursor.execute(*_statement(asked, span, since, until))
        rows = cursor.fetchall()
    if len(rows) > MOST_GROUPS:
        raise Invalid(
            f"That makes more than {MOST_GROUPS:,} groups; ask for less time, or by less.",
            param="group_by",
        )
    count = len(asked.by)
    groups = [_figures(_of(asked.by, row[:count]), row[count:]) for row in rows]
    return Report(span, since, until, _totals([row[count:] for row in rows]), groups)


def _span(asked: Asked) -> tuple[Rollup.Span, datetime, datetime]:
    since, until = asked.since.astimezone(UTC), asked.until.astimezone(UTC)
    hour = {"minute": 0, "second": 0, "microsecond": 0}
    day = {"hour": 0, **hour}
    whole_days = since == since.replace(**day) and until == until.replace(**day)  # type: ignore[arg-type]
    span = Rollup.Span.DAY if whole_days and By.HOUR not in asked.by else Rollup.Span.HOUR
    if until <= since:
        raise Invalid("until must be after since.", param="until")
    if until - since > LONGEST[span]:
        raise Invalid(
            f"By {span.value}, at most {LONGEST[span].days} days can be asked for; whole days "
            "(from midnight to midnight, UTC) may be more.",
            param="since",
        )
    last = until.replace(**hour)  # type: ignore[arg-type]
    return span, since.replace(**hour), last if last == until else last + timedelta(hours=1)  # type: ignore[arg-type]


def _statement(
    asked: Asked, span: Rollup.Span, since: datetime, until: datetime
) -> tuple[sql.Composed, list[Any]]:
    dimensions = {
        By.HOUR: "to_char(start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:00\"Z\"')",
        By.DAY: "to_char(start AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    }
    named = [dimensions.get(each, each.value) for each in asked.by]
    counts = [f"coalesce(sum({name}), 0)::bigint" for name in _COUNTS]
    times = [
        f"ARRAY[{', '.join(f'sum({name}[{step}])' for step in range(1, STEPS + 1))}]"
        for name in _TIMES
    ]
    only = {name: getattr(asked, name) for name in ("model", "key", "project")}
    wanted = {name: value for name, value in only.items() if value}
    places = ", ".join(str(at) for at in range(1, len(named) + 1))
    statement = sql.SQL(
        "SELECT {what} FROM rollups_rollup"
        " WHERE span = %s AND per = %s AND start >= %s AND start < %s"
        "{only} {group} LIMIT {most}"
    ).format(
        what=sql.SQL(", ".join([*named, *counts, *times])),
        only=sql.SQL("".join(f" AND {name} = %s" for name in wanted)),
        group=sql.SQL(f"GROUP BY {places} ORDER BY {places}" if named else "HAVING count(*) > 0"),
        most=sql.Literal(MOST_GROUPS + 1),
    )
    return statement, [span.value, _per(asked.by, wanted), since, until, *wanted.values()]


def _per(by: Sequence[By], wanted: Mapping[str, str]) -> str:
    """By what the fewest sums are that tell what is asked; by model is any, where nothing is."""
    needed = ({each.value for each in by} | wanted.keys()) & {"model", "key", "project"}
    return Rollup.Per.ALL.value if len(needed) > 1 else (*needed, Rollup.Per.MODEL.value)[0]


def _of(by: Sequence[By], values: Sequence[str]) -> Mapping[str, str]:
    return {each.value: value for each, value in zip(by, values, strict=True)}


def _figures(of: Mapping[str, str], row: Sequence[Any]) -> Figures:
    *counts, latency, first_token = row
    named = dict(zip(_COUNTS, counts, strict=True))
    return Figures(of, **named, latency=_shares(latency), first_token=_shares(first_token))


def _totals(rows: Sequence[Sequence[Any]]) -> Figures:
    count = len(_COUNTS)
    counts = [sum(row[at] for row in rows) for at in range(count)]
    return _figures({}, [*counts, *(added([row[at] for row in rows]) for at in (count, count + 1))])


def _shares(counts: Sequence[int]) -> Mapping[str, float | None]:
    return {name: percentile(counts, share) for name, share in _PERCENTILES.items()}
