"""The log of requests: a line each, as it was booked, for whoever ships what the platform writes.

`REQUEST_LOG` says how much: nothing, figures, or texts too. Texts are those of organizations that
keep them, redacted and cut; of an organization that wants nothing kept there is no line at all.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import orjson
import structlog
from django.conf import settings
from redis.exceptions import RedisError

from inference import stream
from inference.jobs import Job, asked_place
from kit.envelope import Unreadable, sealed_under
from kit.keepers import KeeperFailed
from kit.redaction import redacted
from tenants import datakeys
from tenants.models import Retention

_LONGEST = 2_000
"""Characters of a text in a line."""

log = structlog.get_logger("requests")


class Depth(StrEnum):
    """How much is written of a request."""

    OFF = "off"
    FIGURES = "figures"
    TEXTS = "texts"


@dataclass(frozen=True, slots=True)
class Line:
    """A request that was booked: what it was, what it came to, and what was asked, sealed."""

    job: Job
    figures: Mapping[str, Any]
    created_at: datetime
    first_token_at: datetime | None
    ended_at: datetime
    asked: bytes


def write(lines: Iterable[Line]) -> None:
    """A line each, under the request's id; the caller's own stands beside it as `label`."""
    depth = settings.REQUEST_LOG
    if depth == Depth.OFF:
        return
    for line in lines:
        job = line.job
        if job.retention == Retention.NOTHING:
            continue
        texts = _texts(line) if depth == Depth.TEXTS and line.asked else {}
        first = line.first_token_at
        log.info(
            "request",
            request_id=str(job.id),
            label=job.label,
            organization=job.organization,
            key=job.key,
            project=job.project,
            endpoint=job.endpoint,
            model=job.model,
            model_version=job.model_version,
            region=job.region,
            **line.figures,
            latency_ms=_between(line.created_at, line.ended_at),
            first_token_ms=_between(line.created_at, first) if first else None,
            **texts,
        )


def _texts(line: Line) -> dict[str, Any]:
    job = line.job
    try:
        ring = datakeys.ring(job.organization, needs=sealed_under(line.asked))
        plain = ring.unseal(line.asked, asked_place(job.organization, job.id))
        answers = stream.texts_of(stream.read(job.organization, job.id))
    except (Unreadable, KeeperFailed, RedisError) as error:
        return {"texts": f"not to be had: {error}"}
    asked = [
        {"role": each.get("role"), "content": _shown(each.get("content"))}
        for each in orjson.loads(plain)
    ]
    return {"asked": asked, "answered": [_shown(each) for each in answers]}


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    # What would be cut in the middle of a number is redacted whole.
    found = redacted(text[: 4 * _LONGEST])
    return found if len(found) <= _LONGEST else f"{found[:_LONGEST]}…"


def _between(first: datetime, last: datetime) -> int:
    return round((last - first).total_seconds() * 1000)
