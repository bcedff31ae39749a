"""Closing months: once, to the nano, beside bookings under way."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from random import Random
from threading import Event
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from django.db.models import Sum
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import closing, tasks
from billing.invoicing import (
    MonthClosed,
    MonthNotBegun,
    MonthStillRunning,
    NotInvoiceable,
    as_draft,
    close_month,
    preview,
)
from billing.models import Account, Invoice, InvoiceLine, LedgerEntry, Period
from tenants.models import Organization
from tests import factories
from tests.billing import rows
from tests.billing.beside import on_its_own_connection, wait_until_somebody_waits_for_a_lock
from tests.billing.rows import NOW, entry
from tests.billing.test_ledger import DECEMBER, NOVEMBER, booked

AFTER = datetime(2026, 12, 1, 0, 0, 1, tzinfo=UTC)
EVERYTHING = (Period, Invoice, InvoiceLine, LedgerEntry)


def close(account: Account, month: date = NOVEMBER, now: datetime = AFTER, **how: Any) -> Invoice:
    return close_month(organization=account.organization_id, month=month, now=now, **how)


def look(account: Account, month: date = NOVEMBER, now: datetime = NOW) -> Any:
    return preview(organization=account.organization_id, month=month, now=now)


def stored() -> list[Any]:
    """Everything that billing has written down."""
    return [list(model._base_manager.order_by("pk").values()) for model in EVERYTHING]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.integers(0, 10**7),
            st.integers(0, 10**7),
            st.integers(0, 10**12),
            st.integers(0, 10**12),
        ),
        max_size=12,
    ),
    seed=st.integers(),
)
def test_an_invoice_is_its_ledger_rows_whatever_their_order(
    account: Account, rows: list[tuple[str, int, int, int, int]], seed: int
) -> None:
    entries = [
        entry(
            account.organization_id,
            model=model,
            units={"input_tokens": tokens_in, "output_tokens": tokens_out},
            amounts={"input_tokens": nanos_in, "output_tokens": nanos_out},
        )
        for model, tokens_in, tokens_out, nanos_in, nanos_out in rows
    ]
    shuffled = [*entries, *entries[:3]]
    Random(seed).shuffle(shuffled)  # noqa: S311
    with transaction.atomic():
        booked(*shuffled)
        invoice = close(account)
        lines = list(invoice.lines.all())
        transaction.set_rollback(True)
    assert invoice.subtotal == sum(each.amount for each in entries)
    assert invoice.subtotal == sum(line.nanos for line in lines)
    assert invoice.total_minor == sum(line.minor for line in lines)
    assert abs(invoice.total_minor * 10**7 - invoice.subtotal) <= 5 * 10**6
    for line in lines:
        ours = [each for each in entries if each.model == line.model]
        assert line.units == sum(each.units[line.meter] for each in ours)
        assert line.nanos == sum(each.amounts[line.meter] for each in ours)


def test_closing_twice_is_refused_and_changes_nothing(account: Account) -> None:
    booked(entry(account.organization_id))
    invoice = close(account)
    before = stored()
    with pytest.raises(MonthClosed, match="closed on 2026-12-01"):
        close(account, now=AFTER + timedelta(days=9))
    assert stored() == before
    assert (invoice.status, invoice.closed_at, invoice.currency) == ("paid", AFTER, "EUR")


def test_the_running_month_closes_only_early_and_then_usage_goes_to_the_next(
    account: Account,
) -> None:
    mine = account.organization_id
    booked(entry(mine))
    with pytest.raises(MonthStillRunning):
        close(account, now=NOW)
    assert close(account, now=NOW, early=True).subtotal == 4_500
    booked(entry(mine), entry(mine))
    assert look(account, DECEMBER, AFTER).subtotal == 9_000
    with pytest.raises(MonthNotBegun):
        close(account, DECEMBER, NOW, early=True)


def test_an_empty_month_makes_an_invoice_over_nothing(account: Account) -> None:
    invoice = close(account)
    assert (invoice.subtotal, invoice.total_minor, as_draft(invoice).lines) == (0, 0, ())


def test_a_look_changes_nothing(account: Account, other: Account) -> None:
    booked(entry(account.organization_id), entry(other.organization_id))
    before = stored()
    draft = look(account)
    assert stored() == before
    assert draft == as_draft(close(account))
    with pytest.raises(MonthNotBegun):
        look(account, DECEMBER)
    with pytest.raises(MonthClosed):
        look(account)


@pytest.mark.parametrize(("currency", "minor"), [("EUR", 5), ("JPY", 0), ("KWD", 46)])
def test_the_total_is_in_the_currencys_own_minor_unit(db: None, currency: str, minor: int) -> None:
    owner = Account.objects.create(
        organization=factories.organization("acme"), currency=currency, credit_limit=0
    )
    amounts = {"input_tokens": 15_500_000, "output_tokens": 30_000_001}
    booked(entry(owner.organization_id, currency=currency, amounts=amounts))
    assert close(owner).total_minor == minor


def test_without_an_account_there_is_nothing_to_invoice(db: None) -> None:
    stranger = factories.organization("acme")
    with pytest.raises(NotInvoiceable):
        preview(organization=stranger.pk, month=NOVEMBER, now=NOW)


@pytest.mark.django_db(transaction=True)
def test_closing_waits_for_a_booking_under_way_and_counts_it(account: Account) -> None:
    written, may_commit = Event(), Event()

    def book_slowly() -> None:
        with transaction.atomic():
            booked(entry(account.organization_id))
            written.set()
            assert may_commit.wait(30)

    with ThreadPoolExecutor(2) as pool:
        booking = pool.submit(on_its_own_connection(book_slowly))
        assert written.wait(30)
        closing = pool.submit(on_its_own_connection(lambda: close(account)))
        wait_until_somebody_waits_for_a_lock()
        assert not closing.done()
        may_commit.set()
        booking.result()
        assert closing.result().subtotal == 4_500


@pytest.mark.django_db(transaction=True)
def test_a_booking_waits_for_a_closing_and_goes_to_the_next_month(account: Account) -> None:
    late = entry(account.organization_id)
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            invoice = close(account)
            booking = pool.submit(on_its_own_connection(lambda: booked(late)))
            wait_until_somebody_waits_for_a_lock()
            assert not booking.done()
        assert booking.result()[late.request].month == DECEMBER
    assert invoice.subtotal == 0


@pytest.mark.django_db(transaction=True)
def test_in_a_storm_every_row_is_on_one_invoice(account: Account, other: Account) -> None:
    both = (account, other)
    batches = [[entry(each.organization_id) for each in both for _ in range(3)] for _ in range(40)]
    moments = [NOW, AFTER]

    def close_somehow(which: Account, month: date) -> None:
        with suppress(MonthClosed):
            close(which, month, AFTER, early=True)

    work: list[Callable[[], Any]] = [
        *(
            lambda rows=rows, n=n: booked(*rows, now=moments[n % 2])
            for n, rows in enumerate(batches)
        ),
        *(
            lambda which=which, month=month: close_somehow(which, month)
            for which in both
            for month in (NOVEMBER, DECEMBER)
            for _ in range(3)
        ),
    ]
    Random(3).shuffle(work)  # noqa: S311
    with ThreadPoolExecutor(6) as pool:
        done, _ = wait([pool.submit(on_its_own_connection(step)) for step in work])
    for future in done:
        future.result()

    rows = LedgerEntry.objects.across_organizations()
    assert rows.count() == 240
    for which in both:
        mine = rows.for_org(which.organization_id)
        assert Invoice.objects.for_org(which.organization_id).count() == 2
        for invoice in Invoice.objects.for_org(which.organization_id):
            due = mine.filter(month=invoice.month).aggregate(sum=Sum("amount"))["sum"] or 0
            assert invoice.subtotal == due
            assert sum(line.nanos for line in invoice.lines.all()) == due


@pytest.mark.django_db(transaction=True)
def test_of_many_closings_at_once_one_makes_the_invoice(account: Account) -> None:
    booked(entry(account.organization_id))

    def one() -> bool:
        try:
            close(account)
        except MonthClosed:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        won = [pool.submit(on_its_own_connection(one)) for _ in range(12)]
        assert sum(each.result() for each in won) == 1
    assert Invoice.objects.for_org(account.organization_id).count() == 1


@pytest.fixture
def december(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock, just past November."""
    monkeypatch.setattr("django.utils.timezone.now", lambda: AFTER)


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("close_month", *arguments, stdout=out)
    return out.getvalue()


@pytest.mark.usefixtures("december")
def test_the_command_closes_the_last_month_and_prints_its_invoice(account: Account) -> None:
    amounts = {"input_tokens": 1_234_567_000_000, "output_tokens": 4_000_001}
    booked(entry(account.organization_id, amounts=amounts))
    said = run("--organization", "acme")
    for part in ("Acme", "November 2026", "output tokens", "EUR 1,234.571000001", "EUR 1,234.57"):
        assert part in said
    assert "its invoice stands" in run("--organization", "acme")
    assert Invoice.objects.for_org(account.organization_id).count() == 1


@pytest.mark.usefixtures("december")
def test_the_command_looks_at_the_running_month_and_closes_it_early(account: Account) -> None:
    booked(entry(account.organization_id), now=AFTER)
    assert "December 2026" in run("--organization", "acme", "--preview")
    assert not Period.objects.for_org(account.organization_id).filter(closed_at__isnull=False)
    assert "EUR 0.0000045" in run("--organization", "acme", "--early")
    assert Invoice.objects.for_org(account.organization_id).get().month == DECEMBER


@pytest.mark.usefixtures("december")
@pytest.mark.django_db(transaction=True)
def test_the_command_closes_everyones_month(account: Account, other: Account) -> None:
    close(other)
    said = run("--all", "--month", "2026-11")
    assert re.search(r"Acme +INV-2026-000002 +paid +EUR", said)
    assert re.search(r"Globex +INV-2026-000001 +paid, closed before +EUR", said)
    assert Invoice.objects.across_organizations().count() == 2


@pytest.mark.usefixtures("december")
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--organization", "nobody"], "no organization 'nobody'"),
        (["--organization", "acme", "--month", "2026-13"], "no month"),
        (["--organization", "acme", "--month", "2026-12"], "still runs"),
        (["--organization", "acme", "--month", "2027-01", "--early"], "not begun"),
        (["--organization", "acme", "--early", "--preview"], "not allowed with"),
        (["--organization", "acme", "--all"], "not allowed with"),
        ([], "required"),
    ],
)
def test_the_command_says_what_is_wrong(account: Account, arguments: list[str], why: str) -> None:
    with pytest.raises(CommandError, match=why):
        run(*arguments)


@pytest.mark.django_db(transaction=True)
def test_the_schedule_closes_each_open_month_once_and_goes_on_after_a_failure(
    account: Account, other: Account
) -> None:
    """Also one that was left open earlier; not one that its organization did not live to see."""
    rows.account("late")
    Organization.objects.exclude(slug="late").update(created_at=NOW)
    Organization.objects.filter(slug="late").update(created_at=AFTER)
    booked(entry(account.organization_id), now=NOW - timedelta(days=31))
    now = AFTER + closing.SETTLED

    def breaks_for_acme(**arguments: Any) -> Invoice:
        if arguments["organization"] == account.organization_id:
            raise OSError
        return close_month(**arguments)

    assert closing.due(now=AFTER) == [closing.Due(account.organization_id, date(2026, 10, 1))]
    months = closing.due(now=now)
    assert [each.month.month for each in months] == [10, 11, 11]
    done = list(closing.close_all(months, now=now, close=breaks_for_acme))
    assert sorted(each.error is None for each in done) == [False, False, True]
    assert sum(each.invoice is not None for each in closing.close_all(months, now=now)) == 2
    assert closing.due(now=now) == []
    assert Invoice.objects.across_organizations().count() == 3


@pytest.mark.django_db(transaction=True)
def test_the_task_closes_what_is_due(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    Organization.objects.update(created_at=NOW)
    monkeypatch.setattr(closing, "clock", lambda: AFTER + closing.SETTLED)
    assert tasks.close_months() == 1
    assert tasks.close_months() == 0


@pytest.mark.django_db(transaction=True)
def test_a_host_whose_clock_is_ahead_closes_no_month_early(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    Organization.objects.update(created_at=NOW)
    due = len(closing.due(now=closing.clock()))
    monkeypatch.setattr("django.utils.timezone.now", lambda: AFTER.replace(year=2100))
    assert tasks.close_months() == due


@pytest.mark.usefixtures("december")
def test_the_schedule_makes_partitions(db: None) -> None:
    tasks.make_partitions()
    assert tasks.make_partitions() == []
