"""What lies stored and what is held: read by the hour, booked once, on invoice and in usage."""

from datetime import UTC, datetime, timedelta

import pytest

from billing import credit, days, metering, proof
from billing.grouping import By, grouped
from billing.models import Account, LedgerEntry
from inference.batches.models import StoredFile
from inference.tasks import meter_storage
from kit.money import NANOS
from tests.billing import rows
from tests.billing.rows import NOW, entry
from tests.billing.test_invoicing import AFTER, close
from tests.billing.test_ledger import NOVEMBER, booked

HOUR = metering.hour_of(NOW)
RATE = {"storage_byte_hours": 137}
GIGABYTE = 10**9


@pytest.fixture
def priced(account: Account) -> Account:
    """Acme's, where storage has a price: 137 nanos for a million bytes and an hour."""
    rows.price(metering.STORAGE, rates=RATE)
    return account


def book(account: Account, stored: int, hour: datetime = HOUR) -> int:
    return metering.book_storage(
        {account.organization_id: stored}, hour=hour, now=hour + timedelta(hours=1, minutes=2)
    )


def test_an_hour_is_booked_once_whatever_is_stored_later(priced: Account) -> None:
    assert book(priced, GIGABYTE) == 1
    assert book(priced, 2 * GIGABYTE) == 0
    row = LedgerEntry.objects.for_org(priced.organization_id).get()
    assert (row.kind, row.model, row.units) == (
        "meter",
        "storage",
        {"storage_byte_hours": GIGABYTE},
    )
    assert row.amount == 137_000
    assert credit.owed(priced.organization_id) == 137_000


def test_without_a_price_nothing_is_written(account: Account) -> None:
    assert book(account, GIGABYTE) == 0
    assert not LedgerEntry.objects.across_organizations().exists()


def test_it_stands_in_the_usage_on_the_invoice_and_in_its_proof(priced: Account) -> None:
    mine = priced.organization_id
    booked(entry(mine))
    for hours in range(3):
        book(priced, GIGABYTE, HOUR - timedelta(hours=hours))
    by_meter = {each.of["meter"]: each for each in grouped(mine, NOVEMBER, [By.METER])[0]}
    assert by_meter["storage_byte_hours"].amount == 3 * 137_000
    assert sum(each.requests for each in grouped(mine, NOVEMBER, [By.MODEL])[0]) == 1
    assert days.differing(mine, NOVEMBER) == []
    invoice = close(priced)
    assert invoice.subtotal == 3 * 137_000 + 4_500
    line = invoice.lines.get(meter="storage_byte_hours")
    assert (line.kind, line.model, line.units) == ("use", "storage", 3 * GIGABYTE)
    assert invoice.merkle_root == proof.root(mine, NOVEMBER)[0]
    assert days.differing(mine, NOVEMBER) == []


def test_the_last_hour_of_a_month_is_on_that_months_invoice(priced: Account) -> None:
    book(priced, GIGABYTE, datetime(2026, 11, 30, 23, tzinfo=UTC))
    assert close(priced).subtotal == 137_000


def test_tiers_count_what_is_stored(account: Account) -> None:
    steps = [[0, 0], [2 * GIGABYTE, 137]]
    tiers = {"storage_byte_hours": {"mode": "graduated", "steps": steps}}
    rows.price(metering.STORAGE, rates=RATE, tiers=tiers)
    for hours in range(3):
        book(account, GIGABYTE, HOUR - timedelta(hours=hours))
    assert close(account, now=AFTER).subtotal == 137_000


def test_a_held_device_stands_beside_its_models_tokens(account: Account) -> None:
    mine = account.organization_id
    rows.price("acme-1", rates={"device_seconds": 500 * NANOS, "input_tokens": 150_000_000})
    booked(entry(mine, model="acme-1"))
    held, now = {(mine, "acme-1"): 3_600, (mine, "unpriced"): 60}, HOUR + timedelta(hours=1)
    assert [metering.book_devices(held, hour=HOUR, now=now) for _ in range(2)] == [1, 0]
    assert credit.owed(mine) == 1_800_000_000 + 4_500
    invoice = close(account)
    line = invoice.lines.get(meter="device_seconds")
    assert (line.model, line.units, line.nanos) == ("acme-1", 3_600, 1_800_000_000)
    assert invoice.merkle_root == proof.root(mine, NOVEMBER)[0]
    assert days.differing(mine, NOVEMBER) == []


def kept(account: Account, size: int, begins: datetime, days: int = 30) -> StoredFile:
    return StoredFile.objects.create(
        organization=account.organization,
        name="a",
        purpose=StoredFile.Purpose.USER_DATA,
        bytes=size,
        created_at=begins,
        expires_at=begins + timedelta(days=days),
    )


def test_the_task_books_what_lies_there_as_the_hour_ends(
    priced: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(priced, 700, HOUR - timedelta(days=3))
    kept(priced, 300, HOUR + timedelta(minutes=59))
    kept(priced, 5_000, HOUR + timedelta(minutes=61))
    kept(priced, 9_000, HOUR - timedelta(days=31))
    monkeypatch.setattr("django.utils.timezone.now", lambda: NOW + timedelta(minutes=5))
    assert meter_storage() == 1
    assert meter_storage() == 0
    row = LedgerEntry.objects.for_org(priced.organization_id).get()
    assert row.units == {"storage_byte_hours": 1_000}
