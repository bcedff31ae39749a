"""Requests that another model answers again: in idle moments, for operators alone."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from django_tenants.utils import schema_context
from redis import Redis

from billing.models import LedgerEntry
from inference.catalog import offers, shadows
from inference.catalog.models import Model, ShadowRun
from inference.engine import Delta, FinishReason, Outcome
from inference.jobs import Job
from inference.models import Request
from inference.worker import Host
from inference.worker.trials import Trial
from kit.ids import request_id
from kit.redis import cached, state
from tenants.models import AuditEntry, Retention
from tests.inference.parts import ECHO, add_model, serving, submit
from tests.inference.test_worker import until

NEXT = "next"
WAITING, RUNS = f"shadows:{NEXT}", f"shadows:{NEXT}:runs"

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def host(one: Job, tmp_path: Path) -> Iterator[Host]:
    """A worker with echo and its shadow, a draft."""
    cached().flushdb()
    Model.objects.filter(pk=add_model(tmp_path, name=NEXT).pk).update(published=False)
    call_command("models", "shadow", ECHO, f"{NEXT}=100")
    offers.forget()
    host = Host(list(offers.run_here().values()), slots=4)
    host.start()
    yield host
    host.drain(0)
    cached().flushdb()


def runs() -> list[ShadowRun]:
    return list(ShadowRun.objects.all())


def test_a_shadow_answers_again_and_its_figures_alone_are_kept(one: Job, host: Host) -> None:
    with serving(host):
        until(lambda: bool(runs()))
    [run] = runs()
    assert (run.model, run.shadow, run.state) == (ECHO, NEXT, "answered")
    assert run.prompt_tokens == len(one.prompt)
    assert run.tokens == run.shadow_tokens == run.same_tokens > 40
    assert run.likeness == 1
    assert run.total_ms >= run.first_ms > 0
    assert run.shadow_total_ms >= run.shadow_first_ms > 0
    [found] = shadows.compared(since=timezone.now() - timedelta(days=1))
    assert (found.runs, found.answered, found.equal, found.likeness) == (1, 1, 1, 1)


def test_it_is_billed_to_nobody_and_stands_in_no_history(one: Job, host: Host) -> None:
    with serving(host):
        until(lambda: bool(runs()))
    assert [entry.model for entry in LedgerEntry.objects.across_organizations()] == [ECHO]
    with schema_context(one.schema):
        assert [row.model for row in Request.objects.all()] == [ECHO]
    assert not state().exists(f"queue:{NEXT}")


def test_a_draft_that_is_a_shadow_is_on_offer_to_nobody(one: Job, host: Host) -> None:
    assert NEXT in offers.run_here()
    assert NEXT not in offers.published()


def test_what_an_organization_wants_nothing_kept_of_has_no_shadow(
    one: Job, host: Host, redis: Redis
) -> None:
    private = replace(one, id=request_id(timezone.now()), retention=Retention.NOTHING)
    submit(private)
    with serving(host):
        until(lambda: bool(runs()) and LedgerEntry.objects.across_organizations().count() == 2)
    assert not cached().exists(WAITING)
    assert len(runs()) == 1


def test_what_waits_lies_sealed_and_not_for_long(one: Job, host: Host) -> None:
    station = host._stations[NEXT]
    for _ in range(3):
        assert station.take_slot()
    with serving(host):
        until(lambda: bool(cached().llen(WAITING)))
    [stored] = cached().lrange(WAITING, 0, -1)
    assert b"x" * 20 not in stored
    assert bytes(one.prompt[:20]) not in stored
    assert 0 < cached().ttl(WAITING) <= 600
    assert not runs()
    station.free_slot(3)
    until(lambda: bool(runs()))


def test_a_run_gives_way_to_load_and_is_tried_again(
    one: Job, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    station = host._stations[NEXT]
    begun: list[str] = []

    def cancelled(work: str) -> None:
        end = Outcome(FinishReason.cancelled, len(one.prompt), 0, 0)
        station._put([Delta(work, 0, (), "", end)])

    with monkeypatch.context() as patch:
        patch.setattr(station.engine, "submit", lambda work: begun.append(work.id))
        patch.setattr(station.engine, "cancel", cancelled)
        with serving(host):
            until(lambda: bool(begun))
        for _ in range(3):
            assert station.take_slot()
        until(lambda: bool(cached().llen(WAITING)))
    [stored] = cached().lrange(WAITING, 0, -1)
    assert Trial.load(stored).tries == 1  # type: ignore[arg-type]
    station.free_slot(3)
    until(lambda: bool(runs()))
    assert runs()[0].state == "answered"
    until(lambda: station.free == 4 and not cached().exists(RUNS))


def test_a_draft_whose_engine_breaks_takes_nothing_with_it_and_rests(
    one: Job, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(host._stations[NEXT].engine, "step", broken)
    with serving(host):
        until(lambda: bool(runs()))
        assert runs()[0].state == "failed"
        assert not host._stations.is_well(NEXT)
        assert cached().ttl(RUNS) > 0
        again = replace(one, id=request_id(timezone.now()))
        submit(again)
        until(lambda: LedgerEntry.objects.across_organizations().count() == 2)
        until(lambda: bool(cached().llen(WAITING)))
    assert len(runs()) == 1


def test_of_a_shadow_one_runs_at_a_time_of_all_workers(one: Job, host: Host) -> None:
    cached().set(RUNS, 1)  # another worker's, or one's that died with it
    with serving(host):
        until(lambda: bool(cached().llen(WAITING)))
        host._shadows._look()
        assert cached().llen(WAITING) == 1
        cached().delete(RUNS)
        until(lambda: bool(runs()))


def test_an_operator_begins_and_ends_it_on_the_record(one: Job, host: Host) -> None:
    assert offers.published()[ECHO].shadow == NEXT
    call_command("models", "shadow", ECHO)
    assert offers.published()[ECHO].shadow == ""
    changes = AuditEntry.objects.across_organizations().filter(action="model.shadowed")
    assert [entry.after["shadow"] for entry in changes.order_by("pk")] == [NEXT, None]
    with serving(host):
        until(lambda: LedgerEntry.objects.across_organizations().exists())
    assert not cached().exists(WAITING)
    assert not runs()


@pytest.mark.parametrize("target", [f"{ECHO}=5", f"{NEXT}=101", f"{NEXT}=x", "gone=5", "other=5"])
def test_what_cannot_be_a_shadow_is_refused(one: Job, host: Host, target: str) -> None:
    Model.objects.create(
        name="other", title="o", backend="onnx", folder="other", version="1", context=64
    )
    with pytest.raises(CommandError):
        call_command("models", "shadow", ECHO, target)


def test_runs_are_shown_and_forgotten(db: None, capsys: pytest.CaptureFixture[str]) -> None:
    now = timezone.now()
    pair = shadows.Pair("a", "1", "b", "2")
    made, other = shadows.Made((1, 2, 3, 4), 5, 9), shadows.Made((1, 2, 4, 3, 5, 6), 6, 12)
    for at in (now, now - timedelta(days=31)):
        shadows.record(
            pair,
            state=ShadowRun.State.ANSWERED,
            prompt_tokens=3,
            original=made,
            again=other,
            now=at,
        )
    assert runs()[0].same_tokens == 2
    assert runs()[0].likeness == pytest.approx(0.8)
    assert shadows.purge(now=now) == 1
    call_command("models", "shadows")
    said = capsys.readouterr().out
    assert "a 1" in said
    assert "80.0%" in said
