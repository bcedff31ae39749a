"""Requests that kill their workers are set aside, and may be replayed."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import UUID, uuid4

import pytest
from django.test import Client
from redis import Redis

from billing.models import Account, LedgerEntry, PriceVersion
from inference import finish, jobs, stream
from inference.engine import Sampling
from inference.letters import shelf
from inference.letters.models import DeadLetter
from inference.worker import Host
from tenants.audit import SYSTEM
from tenants.models import AuditEntry, Organization, Retention
from tests import factories
from tests.inference.parts import ECHO, fields, job, serving, submit
from tests.inference.test_jobs import expire_leases

pytestmark = pytest.mark.django_db(transaction=True)
NOW = datetime.now(UTC)


def kill(organization: Organization, retention: str = Retention.ANSWERS) -> UUID:
    """A request under which three workers die."""
    one = job(
        organization=organization.pk,
        schema=organization.schema_name,
        prompt=(104, 105, 256),
        sampling=Sampling(max_tokens=8),
        retention=retention,
        price_version=PriceVersion.objects.get().pk,
    )
    submit(one)
    for _ in range(jobs.MOST_CRASHES):
        assert jobs.claim(model=ECHO, worker=uuid4().hex) is not None
        expire_leases()
        jobs.requeue_expired()
    finish.finish([one.id], now=NOW)
    return one.id


def entries(organization: Organization) -> dict[UUID, tuple[str, bool]]:
    rows = LedgerEntry.objects.for_org(organization)
    return {row.pk: (row.state, row.amount > 0) for row in rows}


def wait(for_: Callable[[], bool], host: Host) -> None:
    with serving(host):
        deadline = time.monotonic() + 60
        while not for_():
            assert time.monotonic() < deadline, "it did not come"
            time.sleep(0.01)


def test_a_request_that_kills_its_workers_is_set_aside_and_costs_nothing(
    redis: Redis, acme: Organization, account: Account
) -> None:
    request = kill(acme)
    letter = DeadLetter.objects.for_org(acme).get(pk=request)
    assert (letter.model, letter.attempts) == (ECHO, jobs.MOST_CRASHES)
    assert "stopped 3 times" in letter.cause
    assert entries(acme) == {request: ("failed", False)}
    assert "sealed_prompt" not in fields(request)


def test_a_replay_runs_once_is_billed_once_and_audited(
    redis: Redis, acme: Organization, account: Account, host: Host
) -> None:
    request = kill(acme)
    fresh = shelf.replay(request, by=SYSTEM, now=NOW)
    assert shelf.replay(request, by=SYSTEM, now=NOW) == fresh
    wait(lambda: fresh in entries(acme), host)
    assert stream.texts_of(stream.read(acme.pk, fresh)) == ["hi"]
    redis.delete(f"job:{fresh}")
    assert shelf.replay(request, by=SYSTEM, now=NOW) == fresh
    assert not redis.exists(f"job:{fresh}"), "what was booked does not run again"
    assert entries(acme) == {request: ("failed", False), fresh: ("finished", True)}
    [entry] = AuditEntry.objects.for_org(acme).filter(action="request.replayed")
    assert entry.after == {"as": str(fresh)}


def test_nothing_is_replayed_of_who_keeps_nothing_or_is_suspended(
    redis: Redis, acme: Organization, account: Account
) -> None:
    with pytest.raises(shelf.NothingKept):
        shelf.replay(kill(acme, Retention.NOTHING), by=SYSTEM, now=NOW)
    request = kill(acme)
    Organization.objects.filter(pk=acme.pk).update(suspended_at=NOW)
    with pytest.raises(shelf.Shut):
        shelf.replay(request, by=SYSTEM, now=NOW)
    assert not AuditEntry.objects.for_org(acme).filter(action="request.replayed").exists()


def test_letters_are_thrown_away_after_a_week(
    redis: Redis, acme: Organization, account: Account
) -> None:
    request = kill(acme)
    died = DeadLetter.objects.for_org(acme).get(pk=request).died_at
    assert shelf.purge(now=died + timedelta(days=7)) == 0
    assert shelf.purge(now=died + timedelta(days=7, seconds=1)) == 1


def test_operators_see_the_cause_and_replay(
    redis: Redis, acme: Organization, account: Account, client: Client
) -> None:
    request = kill(acme)
    client.force_login(factories.user("root", is_staff=True, is_superuser=True))
    page = client.get("/admin/letters/deadletter/").content.decode()
    assert str(request) in page
    assert "stopped 3 times" in page
    assert client.get(f"/admin/letters/deadletter/{request}/change/").status_code == 200
    chosen = {"action": "replay", "_selected_action": [str(request)]}
    said = client.post("/admin/letters/deadletter/", chosen, follow=True).content.decode()
    assert "runs again as" in said
    letter = DeadLetter.objects.for_org(acme).get(pk=request)
    assert cast("UUID", letter.replay) in {
        UUID(name.decode().partition(":")[2]) for name in redis.scan_iter("job:*")
    }
