"""Booking sealed requests: history and ledger in one transaction, then the terminal events.

Every step may be repeated: rows are unique by request id, and the scripts that settle and end do
nothing the second time. So whoever finds a seal without a terminal event calls `finish`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from django.db import InterfaceError, OperationalError, connection, transaction

from billing import credit, ledger, pricing
from billing.ledger import Booked
from billing.models import State
from billing.pricing import Charge
from inference import history, journal, metrics, responses, stream, texts, undelivered
from inference.letters.shelf import Dead, set_aside
from inference.pace import runs
from inference.sealed import Sealed, sealed_of
from inference.stream import Ended
from kit.redis import pipeline
from tenants import belonging, limits
from tenants.webhooks import events
from tenants.webhooks.events import Happened, Kind

_LOST = "The platform lost its record of this request's credit; nothing is charged."
_UNBOOKABLE = "The platform could not book this request; nothing is charged."

log = structlog.get_logger()


def finish(requests: Sequence[UUID], *, now: datetime, remembered: bool = True) -> None:
    """Book these requests and end their streams. Those that are not sealed are passed over.

    All in one transaction; raises what the database raises, and `ForeignSchema` for a request that
    names a schema of another organization's: then nothing is booked. Without
    `remembered` no history is written: of an organization that was erased meanwhile, whose schema
    is gone (`history.NoSchema`).
    """
    found = sealed_of(requests)
    if found:
        _book(found, now=now, remembered=remembered)


def give_up(request: UUID, *, now: datetime) -> None:
    """The end of a request that cannot be booked as it is: it fails, costs nothing, and is set
    aside for operators. Should not even that be booked, its client is told all the same."""
    found = [
        replace(each, reason="failed", error=_UNBOOKABLE, cache="", dead=each.dead or b"")
        for each in sealed_of([request])
    ]
    metrics.UNBOOKABLE.inc(len(found))
    try:
        _book(found, now=now, remembered=True)
    except (OperationalError, InterfaceError):
        raise
    except Exception:
        log.exception("ended without its books", request=str(request))
        nothing = [Charge(amounts={}, amount=0, currency="") for _ in found]
        _settle(found, nothing, {each.job.id: each.credit_epoch for each in found})


def _book(found: list[Sealed], *, now: datetime, remembered: bool) -> None:
    charges = [_charge(each) for each in found]
    if remembered:
        belonging.verify((each.job.organization, each.job.schema) for each in found)
    kept = _texts(found) if remembered else []
    answered = _responses(found) if remembered else []
    with _one_conversation():
        booked = ledger.book(
            [_entry(each, charge) for each, charge in zip(found, charges, strict=True)], now=now
        )
        found = [_as_booked(each, booked[each.job.id]) for each in found]
        charges = [_charge(each) for each in found]
        if remembered:
            history.write(
                (each.job.schema, _row(each, charge))
                for each, charge in zip(found, charges, strict=True)
            )
            texts.write(kept)
            responses.write(answered)
        set_aside(_dead(each) for each in found if each.dead is not None)
        events.tell(map(_happened, found, charges), now=now)
    lost = _settle(found, charges, {request: each.epoch for request, each in booked.items()})
    for each, charge in lost:
        undelivered.credit(each.job.organization, each.job.id, charge.amount, now=now)
    _measure(found, charges)
    journal.write(map(_line, found, charges))


@contextmanager
def _one_conversation() -> Iterator[None]:
    """A transaction whose statements are sent on without waiting for each one's answer.

    Only what is read is waited for: booking is a dozen statements, of which three are.
    """
    with transaction.atomic(), connection.wrap_database_errors, connection.connection.pipeline():
        yield


def _texts(found: list[Sealed]) -> list[tuple[str, texts.SealedTexts]]:
    """Of those whose organizations keep them, by schema."""
    found = [each for each in found if each.asked]
    searched = texts.searched(each.job.organization for each in found)
    gathered = (
        (
            each.job.schema,
            texts.gather(
                each.job,
                asked=each.asked,
                finished_at=each.sealed_at,
                searched=each.job.organization in searched,
            ),
        )
        for each in found
    )
    return [(schema, row) for schema, row in gathered if row is not None]


def _responses(found: list[Sealed]) -> list[tuple[str, responses.SealedResponse]]:
    """Of those that are stored, by schema."""
    gathered = (
        (
            each.job.schema,
            responses.gather(
                each.job, frame=each.frame, finished_at=each.sealed_at, answer=each.answer
            ),
        )
        for each in found
    )
    return [(schema, row) for schema, row in gathered if row is not None]


def _as_booked(each: Sealed, booked: Booked) -> Sealed:
    """A request that was booked without credit behind it failed, whatever it delivered."""
    if booked.state == State.FAILED and each.state != State.FAILED:
        return replace(each, reason="failed", error=_LOST)
    return each


def _dead(each: Sealed) -> Dead:
    asked = each.dead or b""
    return Dead(each.job, asked, each.error, each.attempts, each.sealed_at)


def _settle(
    found: list[Sealed], charges: list[Charge], epochs: dict[UUID, int]
) -> list[tuple[Sealed, Charge]]:
    """Settle and end them; those that Redis has forgotten since they were read from it."""
    ends: list[int] = []

    def scripts(pipe: Any) -> None:
        ends.clear()
        for each, charge in zip(found, charges, strict=True):
            job = each.job
            limits.settle(
                pipe,
                counted=job.counted,
                request=job.id,
                tokens=each.prompt_tokens + each.completion_tokens,
            )
            credit.settle(
                pipe,
                organization=job.organization,
                request=job.id,
                amount=charge.amount,
                epoch=epochs[job.id],
            )
            ends.append(len(pipe))
            stream.end(pipe, request=job.id, event=_ended(each, charge))

    replies = pipeline(scripts)
    settled = zip(found, charges, ends, strict=True)
    return [(each, charge) for each, charge, at in settled if replies[at] == stream.LOST]


def _charge(each: Sealed) -> Charge:
    price = pricing.version(each.job.price_version)
    return pricing.charge(price, each.units, free=each.is_free)


def _entry(each: Sealed, charge: Charge) -> ledger.Entry:
    job = each.job
    return ledger.Entry(
        request=job.id,
        organization=job.organization,
        key=job.key,
        model=job.model,
        state=State(each.state),
        units=each.units,
        amounts=charge.amounts,
        amount=charge.amount,
        currency=charge.currency,
        price_version=job.price_version,
        region=job.region,
        label=job.label,
        project=job.project,
        epoch=each.credit_epoch,
    )


def _row(each: Sealed, charge: Charge) -> history.Row:
    job = each.job
    return history.Row(
        id=job.id,
        state=each.state,
        reason=each.reason,
        error=each.error[:500],
        endpoint=job.endpoint,
        model=job.model,
        model_version=job.model_version,
        key=job.key,
        label=job.label,
        region=job.region,
        prompt_tokens=each.prompt_tokens,
        cached_tokens=each.cached_tokens,
        completion_tokens=each.completion_tokens,
        reasoning_tokens=each.reasoning_tokens,
        amount=charge.amount,
        currency=charge.currency,
        attempts=each.attempts,
        created_at=each.created_at,
        started_at=each.started_at,
        first_token_at=each.first_token_at,
        finished_at=each.sealed_at,
        project=job.project,
        cache=each.cache,
        kept_seconds=each.kept_seconds,
    )


def _happened(each: Sealed, charge: Charge) -> Happened:
    """What a webhook is told of it: figures, never texts."""
    job = each.job
    data = {
        "request": str(job.id),
        "state": each.state,
        "reason": each.reason,
        "endpoint": job.endpoint,
        "model": job.model,
        "prompt_tokens": each.prompt_tokens,
        "completion_tokens": each.completion_tokens,
        "cached_tokens": each.cached_tokens,
        "reasoning_tokens": each.reasoning_tokens,
        "amount_nanos": charge.amount,
        "currency": charge.currency,
        "label": job.label,
        "project": job.project,
    }
    return Happened(job.organization, Kind.REQUEST_FINISHED, str(job.id), data)


def _line(each: Sealed, charge: Charge) -> journal.Line:
    """As the log of requests has it."""
    figures = {
        "state": each.state,
        "reason": each.reason,
        "error": each.error[:500],
        "cache": each.cache,
        "prompt_tokens": each.prompt_tokens,
        "completion_tokens": each.completion_tokens,
        "amount_nanos": charge.amount,
        "currency": charge.currency,
        "attempts": each.attempts,
    }
    times = each.created_at, each.first_token_at, each.sealed_at
    return journal.Line(each.job, figures, *times, asked=each.asked)


def _ended(each: Sealed, charge: Charge) -> Ended:
    return Ended(
        entry="",
        reason=each.reason,
        prompt_tokens=each.prompt_tokens,
        cached_tokens=each.cached_tokens,
        completion_tokens=each.completion_tokens,
        amount=charge.amount,
        currency=charge.currency,
        error=each.error,
        cache=each.cache,
        reasoning_tokens=each.reasoning_tokens,
        answer=each.answer,
    )


def _measure(found: list[Sealed], charges: list[Charge]) -> None:
    for each, charge in zip(found, charges, strict=True):
        model = each.job.model
        metrics.REQUESTS.labels(model, each.state).inc()
        metrics.TOKENS.labels(model, "input").inc(each.prompt_tokens)
        metrics.TOKENS.labels(model, "output").inc(each.completion_tokens)
        metrics.NANOS.labels(model).inc(charge.amount)
        if each.started_at and each.state == "finished" and not each.cache:
            runs.note(model, (each.sealed_at - each.started_at).total_seconds())
        if each.started_at:
            waited = (each.started_at - each.created_at).total_seconds()
            metrics.QUEUE_SECONDS.labels(model).observe(waited)
        if each.first_token_at:
            waited = (each.first_token_at - each.created_at).total_seconds()
            metrics.FIRST_TOKEN_SECONDS.labels(model).observe(waited)
