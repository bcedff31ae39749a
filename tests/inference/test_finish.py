"""Booking what was sealed, where credit and Redis have moved on meanwhile."""

from dataclasses import replace
from typing import Any

import pytest
from django.db import connection
from django_tenants.utils import schema_context
from redis import Redis

from analytics.reconciliation import reconcile
from billing import credit
from billing.allowances import Grant
from billing.models import LedgerEntry, PriceVersion
from billing.months import month_of
from inference import finish as finishing
from inference import jobs, line, stream
from inference.catalog.offers import Offer
from inference.engine import Delta, FinishReason, Outcome, Sampling
from inference.jobs import Job
from inference.models import Request
from inference.sealed import sealed_of
from inference.worker.finisher import finish_each
from kit.redis import pipeline, state
from tenants import datakeys
from tenants.auth import Caller
from tenants.belonging import ForeignSchema
from tenants.models import Organization
from tests.inference.parts import NOW, fields, job

pytestmark = pytest.mark.django_db(transaction=True)

CREDIT = 1_000_000_000


def admit(request: Job, amount: int) -> bytes:
    """Past limits: hold credit, stand in line. The credit script's word."""
    ticket = f"ticket:{request.id}"
    state().set(ticket, "limits")

    def scripts(pipe: Any) -> None:
        credit.reserve(
            pipe,
            ticket=ticket,
            organization=request.organization,
            request=request.id,
            amount=amount,
            currency="EUR",
        )
        ring = datakeys.ring(request.organization)
        line.submit(pipe, ticket=ticket, job=request, ring=ring, web="web")

    return bytes(pipeline(scripts)[0][0])


@pytest.fixture
def sealed(caller: Caller, echo: Offer) -> Job:
    """Two tokens in, three out, 8,000 nanos in all, sealed and not booked."""
    return seal(caller, FinishReason.stop, (1, 2, 3))


def seal(caller: Caller, reason: FinishReason, tokens: tuple[int, ...]) -> Job:
    """A request of two tokens that a worker ended."""
    credit.rebuild(caller.organization)
    made = job(
        organization=caller.organization,
        schema=caller.schema,
        sampling=Sampling(max_tokens=8),
        project="site",
        price_version=PriceVersion.objects.get().pk,
    )
    assert admit(made, 18_000) == b"ok"
    claim = jobs.claim(model=made.model, worker="w")
    assert claim is not None
    outcome = Outcome(reason, prompt_tokens=2, cached_tokens=0, completion_tokens=len(tokens))
    text = "abc"[: len(tokens)]
    delta = Delta(str(made.id), position=0, tokens=tokens, text=text, outcome=outcome)
    cipher = datakeys.ring(made.organization).cipher(stream.place(made.organization, made.id))
    stream.append([(made.id, claim.attempt, delta, cipher)])
    return made


def flush_once_read(monkeypatch: pytest.MonkeyPatch, then: Any) -> None:
    """Redis is emptied between the reading of the seal and the booking."""
    read = sealed_of

    def reads(requests: Any) -> Any:
        found = read(requests)
        state().flushdb()
        then()
        return found

    monkeypatch.setattr(finishing, "sealed_of", reads)


def booked(request: Job) -> tuple[str, int, str, int]:
    """State and amount, in the ledger and in history."""
    row = LedgerEntry.objects.for_org(request.organization).get(request=request.id)
    with schema_context(request.schema):
        past = Request.objects.get(pk=request.id)
    return row.state, row.amount, past.state, past.amount


def test_history_has_the_project_and_the_parts_of_what_was_read_and_written(
    sealed: Job, redis: Redis
) -> None:
    state().hset(f"job:{sealed.id}", mapping={"cached_tokens": 1, "reasoning_tokens": 2})
    finishing.finish([sealed.id], now=NOW)
    row = LedgerEntry.objects.for_org(sealed.organization).get()
    assert row.units == {
        "input_tokens": 1,
        "cached_input_tokens": 1,
        "output_tokens": 1,
        "reasoning_tokens": 2,
    }
    assert row.amount == 8_000
    with schema_context(sealed.schema):
        past = Request.objects.get(pk=sealed.id)
    assert (past.project, past.cached_tokens, past.reasoning_tokens) == ("site", 1, 2)
    organization = Organization.objects.get(pk=sealed.organization)
    assert reconcile(organization, month_of(NOW)).differences == ()
    with schema_context(sealed.schema):
        Request.objects.update(project="another")
    found = reconcile(organization, month_of(NOW)).differences
    assert [each.found for each in found] == ["project another, not site"]


@pytest.mark.parametrize(("tokens", "amount"), [((), 0), ((1,), 4_000)])
def test_whose_time_was_over_before_the_first_token_pays_nothing(
    tokens: tuple[int, ...], amount: int, caller: Caller, echo: Offer
) -> None:
    late = seal(caller, FinishReason.timeout, tokens)
    finish_each([late.id])
    assert LedgerEntry.objects.across_organizations().get().amount == amount
    assert fields(late.id)["reason"] == "timeout"


def test_a_seal_outlives_a_flush_where_credit_still_pays_and_is_credited_since_nobody_can_read_it(
    sealed: Job, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush_once_read(monkeypatch, lambda: credit.rebuild(sealed.organization))
    finishing.finish([sealed.id], now=NOW)
    assert booked(sealed) == ("finished", 8_000, "finished", 8_000)
    assert [each.amount for each in Grant.objects.for_org(sealed.organization)] == [8_000]


def test_a_seal_whose_credit_went_to_others_fails_free(
    sealed: Job, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = job(organization=sealed.organization, schema=sealed.schema)

    def others_take_everything() -> None:
        credit.rebuild(sealed.organization)
        assert admit(other, CREDIT) == b"ok"

    flush_once_read(monkeypatch, others_take_everything)
    finishing.finish([sealed.id], now=NOW)
    assert booked(sealed) == ("failed", 0, "failed", 0)
    monkeypatch.undo()
    finishing.finish([sealed.id], now=NOW)
    assert credit.owed(sealed.organization) == 0


def test_a_raised_limit_leaves_running_requests_their_credit(sealed: Job, redis: Redis) -> None:
    credit.renew(sealed.organization)
    finishing.finish([sealed.id], now=NOW)
    assert booked(sealed) == ("finished", 8_000, "finished", 8_000)
    assert redis.hget(f"credit:{sealed.organization}", "spent") == b"8000"


def test_what_ran_while_its_organization_was_erased_is_booked_without_history(sealed: Job) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER SCHEMA org_acme RENAME TO gone")
        try:
            finish_each([sealed.id])
        finally:
            cursor.execute("ALTER SCHEMA gone RENAME TO org_acme")
    row = LedgerEntry.objects.for_org(sealed.organization).get(request=sealed.id)
    assert (row.state, row.amount) == ("finished", 8_000)
    assert state().hget(f"job:{sealed.id}", "state") == b"done"
    with schema_context(sealed.schema):
        assert not Request.objects.exists()


def test_a_request_that_names_anothers_schema_is_not_booked(
    sealed: Job, globex: Organization
) -> None:
    forged = replace(sealed, schema=globex.schema_name)
    state().hset(f"job:{sealed.id}", "spec", forged.dump())
    with pytest.raises(ForeignSchema, match="org_globex"):
        finishing.finish([sealed.id], now=NOW)
    assert not LedgerEntry.objects.across_organizations().exists()
    with schema_context(globex.schema_name):
        assert not Request.objects.exists()
    state().hset(f"job:{sealed.id}", "spec", sealed.dump())
    finishing.finish([sealed.id], now=NOW)
    assert LedgerEntry.objects.across_organizations().count() == 1
