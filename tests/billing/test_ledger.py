"""Booking: once, for good, to an open month."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.db import Error, connection, transaction
from django.db.transaction import TransactionManagementError
from django_tenants.utils import schema_context
from hypothesis import given
from hypothesis import strategies as st

from billing import ledger, partitions
from billing.ledger import Booked, CannotBook, Entry, book
from billing.models import Account, LedgerEntry, Meter, Period
from billing.months import month_after, month_before, month_of, parse_month
from billing.usage import recent, summary
from kit.ids import first_id, request_id
from tenants.scoping import Unscoped
from tests.billing.rows import NOW, entry

NOVEMBER, DECEMBER = date(2026, 11, 1), date(2026, 12, 1)


def booked(*entries: Entry, now: datetime = NOW) -> dict[Any, Booked]:
    """Booked in a transaction of their own."""
    with transaction.atomic():
        return book(entries, now=now)


def test_a_row_is_booked_as_sealed(account: Account) -> None:
    row = entry(account.organization_id, label="my-id", region="eu")
    assert booked(row) == {row.request: Booked(epoch=0, month=NOVEMBER, state="finished")}
    stored = LedgerEntry.objects.for_org(account.organization_id).get()
    assert (stored.request, stored.label, stored.region) == (row.request, "my-id", "eu")
    assert (stored.units, stored.amounts) == (row.units, row.amounts)
    assert (stored.amount, stored.state, stored.created_at) == (4_500, "finished", NOW)


def test_booking_twice_changes_nothing(account: Account) -> None:
    row, late = entry(account.organization_id), NOW + timedelta(days=40)
    first = booked(row)
    assert booked(row, row, now=late) == first
    assert LedgerEntry.objects.for_org(account.organization_id).count() == 1


def test_old_and_new_rows_go_in_one_batch(account: Account, other: Account) -> None:
    old, new = entry(account.organization_id), entry(other.organization_id)
    booked(old)
    assert booked(new, old).keys() == {old.request, new.request}
    assert LedgerEntry.objects.across_organizations().count() == 2


def test_a_closed_month_books_to_the_next_open_one(account: Account, other: Account) -> None:
    for month in (NOVEMBER, DECEMBER):
        Period.objects.create(organization=account.organization, month=month, closed_at=NOW)
    late, usual = entry(account.organization_id), entry(other.organization_id)
    found = booked(late, usual)
    assert found[late.request].month == date(2027, 1, 1)
    assert found[usual.request].month == NOVEMBER


def test_it_works_from_a_tenants_schema(account: Account) -> None:
    row = entry(account.organization_id)
    with schema_context("org_acme"):
        booked(row)
    assert LedgerEntry.objects.for_org(account.organization_id).count() == 1


@pytest.mark.django_db(transaction=True)
def test_booking_belongs_in_a_transaction(account: Account) -> None:
    with pytest.raises(TransactionManagementError):
        book([entry(account.organization_id)], now=NOW)


def test_nothing_is_nothing(db: None) -> None:
    assert booked() == {}


def test_another_currency_or_no_account_is_an_error(account: Account) -> None:
    for row in (entry(account.organization_id, currency="JPY"), entry(10**9)):
        with pytest.raises(CannotBook):
            booked(row)


@pytest.mark.parametrize(
    "fields",
    [
        {"amount": 1},
        {"units": {"input_tokens": 1}},
        {"units": {"input_tokens": 1, "output_tokens": 1, "smiles": 1}},
        {"state": "failed"},
        {"state": "lost"},
    ],
)
def test_an_entry_that_contradicts_itself_is_an_error(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        entry(1, **fields)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE billing_ledgerentry SET amount = 0",
        "DELETE FROM billing_ledgerentry",
        "TRUNCATE billing_ledgerentry",
        "DELETE FROM billing_ledgerentry_default",
        "TRUNCATE billing_ledgerentry_default",
    ],
)
def test_the_ledger_never_changes(account: Account, change: str) -> None:
    booked(entry(account.organization_id, at=datetime(2020, 1, 1, tzinfo=UTC)))
    with (
        pytest.raises(Error, match="of the ledger is refused: its rows never change"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(change)


def test_a_partition_cannot_be_emptied_either(account: Account) -> None:
    name = partitions.make(datetime(2031, 1, 1, tzinfo=UTC))[0]
    with (
        pytest.raises(Error, match="TRUNCATE of the ledger is refused"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(f"TRUNCATE {name}")


def test_an_unscoped_look_at_the_ledger_raises(db: None) -> None:
    with pytest.raises(Unscoped):
        list(LedgerEntry.objects.all())


def test_partitions_are_made_three_months_ahead_and_once(db: None) -> None:
    at = datetime(2030, 11, 30, 23, tzinfo=UTC)
    made = ledger.make_partitions(at)
    assert made == [
        f"billing_ledgerentry_{month}" for month in ("2030_11", "2030_12", "2031_01", "2031_02")
    ]
    assert ledger.make_partitions(at) == []


def partition_of(row: Entry) -> str:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT tableoid::regclass::text FROM billing_ledgerentry WHERE request = %s",
            [row.request],
        )
        return str(cursor.fetchone()[0])


def test_rows_fall_into_the_partition_of_their_requests_month(account: Account) -> None:
    start = datetime(2030, 12, 1, tzinfo=UTC)
    ledger.make_partitions(start)
    mine = account.organization_id
    rows = [
        (entry(mine, request=first_id(start)), "2030_12"),
        (entry(mine, at=start - timedelta(milliseconds=1)), "default"),
        (entry(mine, at=datetime(2031, 1, 31, 23, 59, 59, tzinfo=UTC)), "2031_01"),
    ]
    booked(*(row for row, _ in rows))
    for row, place in rows:
        assert partition_of(row) == f"billing_ledgerentry_{place}"


def test_a_month_begun_in_the_default_partition_stays_there(
    account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    row = entry(account.organization_id, at=datetime(2035, 1, 2, tzinfo=UTC))
    booked(row)
    made = ledger.make_partitions(datetime(2035, 1, 3, tzinfo=UTC))
    assert [name[-7:] for name in made] == ["2035_02", "2035_03", "2035_04"]
    assert "default partition" in caplog.text
    assert partition_of(row).endswith("default")


def test_a_summary_adds_up_by_model_and_leaves_others_out(account: Account, other: Account) -> None:
    mine = account.organization_id
    rows = [entry(mine), entry(mine), entry(mine, model="big")]
    failed = entry(mine, state="failed", amounts={}, units={"input_tokens": 7})
    booked(*rows, failed, entry(other.organization_id))
    booked(entry(mine), now=NOW + timedelta(days=31))
    found = summary(mine, NOVEMBER)
    assert [(use.model, use.requests, use.amount) for use in found.models] == [
        ("big", 1, 4_500),
        ("echo", 3, 9_000),
    ]
    assert (found.requests, found.amount, found.currency) == (4, 13_500, "EUR")
    assert found.units(Meter.INPUT_TOKENS) == 37
    amounts = {meter: nanos for meter, nanos in found.models[1].amounts.items() if nanos}
    assert amounts == {"input_tokens": 3_000, "output_tokens": 6_000}


def test_an_empty_month_sums_to_nothing(account: Account) -> None:
    found = summary(account.organization_id, NOVEMBER)
    assert (found.requests, found.amount, found.models) == (0, 0, ())


def test_the_latest_rows_come_first(account: Account, other: Account) -> None:
    rows = [
        entry(account.organization_id, at=NOW + timedelta(seconds=second)) for second in range(5)
    ]
    booked(*rows, entry(other.organization_id))
    found = recent(account.organization_id, NOVEMBER, most=3)
    assert [row.request for row in found] == [row.request for row in reversed(rows[2:])]


@given(st.datetimes(timezones=st.just(UTC)))
def test_months_follow_each_other(at: datetime) -> None:
    month = month_of(at)
    if date(1000, 2, 1) < month < date(9999, 12, 1):
        assert month_before(month_after(month)) == month == month_after(month_before(month))
        assert parse_month(f"{month:%Y-%m}") == month


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-13", "2026-1", "26-01", "2026-11-01", " 2026-11"]
)
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no month"):
        parse_month(text)


@pytest.mark.django_db(transaction=True)
def test_batches_that_share_organizations_and_rows_never_block_each_other(
    account: Account, other: Account
) -> None:
    mine, theirs = account.organization_id, other.organization_id
    booked(entry(mine), entry(theirs))
    rows = [entry(each) for _ in range(1200) for each in (mine, theirs)]

    def one(number: int) -> None:
        batch = rows if number % 2 else list(reversed(rows))
        try:
            booked(*batch)
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(one, range(6)))
    assert LedgerEntry.objects.across_organizations().count() == len(rows) + 2


def test_request_ids_carry_their_time() -> None:
    assert request_id(NOW) > first_id(NOW - timedelta(milliseconds=1))
