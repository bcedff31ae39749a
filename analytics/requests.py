"""Reading an organization's requests: filtered, in pages, and whole.

Pages go by the id, which grows with the time of the request, so that new ones move no page.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from django.db.models import QuerySet
from django_tenants.utils import schema_context

from inference import words
from inference.models import Request, RequestText
from kit import sheets
from kit.errors import Refused
from kit.ids import first_id
from kit.money import decimal
from tenants import datakeys
from tenants.models import Organization

_CHUNK = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PLAIN = (
    "state", "reason", "error", "endpoint", "model", "model_version", "key", "project", "label",
    "region", "cache", "prompt_tokens", "cached_tokens", "completion_tokens", "attempts",
    "created_at", "started_at", "first_token_at", "finished_at",
)  # fmt: skip


class NotSearched(Refused):
    """The organization keeps no texts that can be searched."""

    status, code = 409, "texts_not_searchable"


@dataclass(frozen=True, slots=True)
class Filter:
    """Which requests; empty fields let all through. Amounts are nanos, `words` any text."""

    since: datetime | None = None
    until: datetime | None = None
    model: str = ""
    key: str = ""
    project: str = ""
    states: Sequence[str] = ()
    least: int | None = None
    most: int | None = None
    rating: str = ""
    words: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A request as it is told. Times between are milliseconds."""

    request_id: UUID
    state: str
    reason: str
    error: str
    endpoint: str
    model: str
    model_version: str
    key: str
    project: str
    label: str
    region: str
    cache: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    amount: str
    amount_nanos: int
    currency: str
    attempts: int
    created_at: datetime
    started_at: datetime | None
    first_token_at: datetime | None
    finished_at: datetime
    latency_ms: int
    first_token_ms: int | None
    rating: str | None


COLUMNS = tuple(field.name for field in fields(Entry))


def page(
    organization: int, only: Filter, *, before: UUID | None, most: int
) -> tuple[list[Entry], UUID | None]:
    """The newest requests before the one of that id, and where the next page begins, if there is.

    Raises `NotSearched`, and `Invalid` for words that are none.
    """
    with schema_context(_schema(organization)):
        rows = _rows(organization, only)
        if before is not None:
            rows = rows.filter(pk__lt=before)
        found = [_entry(row) for row in rows.order_by("-id")[: most + 1]]
    return found[:most], found[most - 1].request_id if len(found) > most else None


def chunks(organization: int, only: Filter, *, form: str) -> Iterator[bytes]:
    """All requests, oldest first, as `csv` or `jsonl`; what comes in meanwhile is among them.

    Raises as `page` does, at once.
    """
    schema, last = _schema(organization), None
    if only.words:
        _marks(organization, only.words)

    def parts(last: UUID | None) -> Iterator[bytes]:
        if form == "csv":
            yield sheets.rows([COLUMNS])
        while True:
            with schema_context(schema):
                rows = _rows(organization, only).order_by("id")
                rows = rows if last is None else rows.filter(pk__gt=last)
                found = [_entry(row) for row in rows[:_CHUNK]]
            if not found:
                return
            yield sheets.rows(map(_cells, found)) if form == "csv" else _lines(found)
            last = found[-1].request_id

    return parts(last)


def _rows(organization: int, only: Filter) -> QuerySet[Request]:
    rows = Request.objects.select_related("feedback").filter(**_lookups(only))
    if not only.words:
        return rows
    texts = RequestText.objects.all()
    for marks in _marks(organization, only.words):
        texts = texts.filter(words__overlap=marks)
    return rows.filter(pk__in=texts.values("request"))


def _lookups(only: Filter) -> dict[str, Any]:
    wanted = {
        "pk__gte": only.since and first_id(max(only.since, _EPOCH)),
        "pk__lt": only.until and first_id(max(only.until, _EPOCH)),
        "model": only.model,
        "key": only.key,
        "project": only.project,
        "state__in": only.states,
        "amount__gte": only.least,
        "amount__lte": only.most,
        "feedback__rating": only.rating,
    }
    return {name: value for name, value in wanted.items() if value not in (None, "", ())}


def _marks(organization: int, text: str) -> list[list[bytes]]:
    if not Organization.objects.filter(pk=organization, texts_searchable=True).exists():
        raise NotSearched(
            "Texts are not searched here: PUT /api/v1/retention with keeps: texts and "
            "searchable: true, for what is sent from then on."
        )
    return words.wanted(datakeys.ring(organization), organization, text)


def _schema(organization: int) -> str:
    return Organization.objects.values_list("schema_name", flat=True).get(pk=organization)


def _entry(row: Request) -> Entry:
    feedback = getattr(row, "feedback", None)
    return Entry(
        request_id=row.pk,
        **{name: getattr(row, name) for name in _PLAIN},
        amount=decimal(row.amount),
        amount_nanos=row.amount,
        currency=row.currency,
        latency_ms=_between(row.created_at, row.finished_at),
        first_token_ms=(
            None if row.first_token_at is None else _between(row.created_at, row.first_token_at)
        ),
        rating=feedback and feedback.rating,
    )


def _between(first: datetime, last: datetime) -> int:
    return round((last - first).total_seconds() * 1000)


def _lines(found: Iterable[Entry]) -> bytes:
    return b"".join(orjson.dumps(each) + b"\n" for each in found)


def _cells(entry: Entry) -> list[str]:
    return [sheets.cell(_text(getattr(entry, name))) for name in COLUMNS]


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="milliseconds")
    return str(value)
