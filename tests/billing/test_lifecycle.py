"""Invoices from the closed month to the money: numbers, tax, moves, credit notes."""

from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from functools import partial
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from analytics.reconciliation import Kind, reconcile
from billing import credit, lifecycle
from billing.documents import as_data, invoice_pdf, usage_csv
from billing.invoicing import MonthClosed, close_month, invoice_again, plain
from billing.lifecycle import LEGAL, IllegalMove, NotCreditable, Status
from billing.models import (
    Account,
    BillingDetails,
    Invoice,
    InvoiceLine,
    InvoiceSeries,
    LedgerEntry,
    Period,
    TaxRate,
)
from billing.tax import Tax, is_vat_id, tax_for
from kit.money import NANOS
from tests.billing.beside import on_its_own_connection
from tests.billing.rows import NOW, entry
from tests.billing.test_invoicing import AFTER, close
from tests.billing.test_ledger import DECEMBER, NOVEMBER, booked

HUNDRED = {"input_tokens": 60 * NANOS, "output_tokens": 40 * NANOS}


@pytest.fixture(autouse=True)
def seller(settings: Any, redis: Redis) -> None:
    """In Hamburg."""
    settings.SELLER = {
        "name": "Nordlicht",
        "address": "Speicherstadt 4",
        "country": "DE",
        "vat_id": "DE123456789",
        "bank": "IBAN DE02",
    }


@pytest.fixture
def invoice(account: Account) -> Invoice:
    """Of EUR 100 net."""
    booked(entry(account.organization_id, amounts=HUNDRED))
    return close(account)


def details(account: Account, **fields: Any) -> BillingDetails:
    return BillingDetails.objects.create(
        organization=account.organization,
        **{"name": "Acme SARL", "address": "12 rue de la Paix", "country": "DE", **fields},
    )


def rate(country: str, thousandths: int, since: date = date(2020, 1, 1)) -> TaxRate:
    return TaxRate.objects.create(country=country, rate=thousandths, effective_from=since)


def move(invoice: Invoice, to: str, **how: Any) -> Invoice:
    return lifecycle.move(invoice=invoice.pk, to=to, now=AFTER, **how)


@pytest.mark.parametrize("source", list(Status))
@pytest.mark.parametrize("target", list(Status))
def test_only_legal_moves_are_made(invoice: Invoice, source: Status, target: Status) -> None:
    Invoice.objects.for_org(invoice.organization_id).update(status=source)
    if target in LEGAL[source]:
        assert move(invoice, target).status == target
        assert [step.target for step in invoice.moves.all()][-1] == target
        return
    with pytest.raises(IllegalMove, match=f"is {source} and cannot become {target}"):
        move(invoice, target)
    invoice.refresh_from_db()
    assert invoice.status == source


def test_an_issued_invoice_has_its_number_its_day_and_its_parties(account: Account) -> None:
    details(account)
    booked(entry(account.organization_id, amounts=HUNDRED))
    invoice = close(account)
    assert (invoice.number, invoice.issued_at) == ("INV-2026-000001", AFTER)
    assert invoice.due_on == date(2026, 12, 15)
    assert (invoice.buyer["name"], invoice.seller["name"]) == ("Acme SARL", "Nordlicht")
    assert close(account, DECEMBER, AFTER, early=True).number == "INV-2026-000002"


def test_without_details_the_organization_is_the_buyer(invoice: Invoice) -> None:
    assert invoice.buyer["name"] == "Acme"


def test_a_draft_has_no_number_until_it_is_issued(account: Account, other: Account) -> None:
    booked(entry(account.organization_id, amounts=HUNDRED))
    draft = close(account, issue=False)
    assert (draft.status, draft.number) == ("draft", None)
    booked(entry(other.organization_id, amounts=HUNDRED))
    assert close(other).number == "INV-2026-000001"
    assert move(draft, "open").number == "INV-2026-000002"


def test_an_invoice_over_nothing_is_paid_at_once(account: Account) -> None:
    invoice = close(account)
    assert (invoice.status, invoice.number) == ("paid", "INV-2026-000001")


def test_what_is_paid_frees_the_credit(
    invoice: Invoice, django_capture_on_commit_callbacks: Any
) -> None:
    credit.rebuild(invoice.organization_id)
    with django_capture_on_commit_callbacks(execute=True):
        move(invoice, "paid", note="transfer 0815", by="operator@example.com")
    found = credit.counters(invoice.organization_id)
    assert found is not None
    assert (found.spent, credit.owed(invoice.organization_id)) == (0, 0)
    step = invoice.moves.last()
    assert step is not None
    assert (step.note, step.by) == ("transfer 0815", "operator@example.com")


@pytest.mark.parametrize(
    ("country", "vat_id", "tax"),
    [
        ("DE", "", Tax("VAT", 19_000)),
        ("DE", "DE999999999", Tax("VAT", 19_000)),
        ("FR", "", Tax("VAT", 20_000)),
        ("FR", "DE999999999", Tax("VAT", 20_000)),
        ("LU", "", Tax()),
        ("US", "", Tax()),
        ("CH", "CHE123456789", Tax()),
    ],
)
def test_tax_goes_by_country_and_vat_id(
    account: Account, country: str, vat_id: str, tax: Tax
) -> None:
    rate("DE", 19_000)
    rate("FR", 20_000)
    rate("US", 8_875)
    buyer = details(account, country=country, vat_id=vat_id)
    assert tax_for(buyer, seller="DE", on=DECEMBER) == tax
    assert tax_for(buyer, seller="", on=DECEMBER) == Tax()


def test_who_has_not_said_where_they_are_is_taxed_as_at_home(account: Account) -> None:
    rate("DE", 19_000)
    assert tax_for(None, seller="DE", on=DECEMBER).rate == 19_000
    assert tax_for(None, seller="", on=DECEMBER) == Tax()


def test_a_business_elsewhere_in_the_eu_accounts_for_the_tax_itself(account: Account) -> None:
    rate("FR", 20_000)
    details(account, country="FR", vat_id="FR12345678901")
    booked(entry(account.organization_id, amounts=HUNDRED))
    invoice = close(account)
    assert invoice.tax_minor == 0
    assert "Reverse charge" in invoice.note
    assert is_vat_id("EL123456789", "GR")


def test_a_new_rate_counts_from_its_day_on(account: Account) -> None:
    rate("DE", 19_000)
    rate("DE", 16_000, date(2026, 12, 1))
    buyer = details(account)
    assert tax_for(buyer, seller="DE", on=date(2026, 11, 30)).rate == 19_000
    assert tax_for(buyer, seller="DE", on=date(2026, 12, 1)).rate == 16_000


def test_tax_is_on_the_net_total_rounded_once(account: Account) -> None:
    rate("DE", 19_000)
    details(account)
    booked(entry(account.organization_id, amounts={"input_tokens": 33_335_000_000}))
    invoice = close(account)
    assert (invoice.total_minor, invoice.tax_minor, invoice.due_minor) == (3334, 633, 3967)


def test_a_credit_note_takes_everything_back_and_settles(invoice: Invoice) -> None:
    note = lifecycle.credit_note(invoice=invoice.pk, reason="a bad model", now=AFTER)
    invoice.refresh_from_db()
    assert (note.number, note.total_minor, note.subtotal) == (
        "CN-2026-000001",
        -10_000,
        -100 * NANOS,
    )
    assert {(line.units, line.minor) for line in note.lines.all()} == {(-10, -6000), (-5, -4000)}
    assert (invoice.status, credit.owed(invoice.organization_id)) == ("paid", 0)
    with pytest.raises(NotCreditable, match=r"EUR 0\.00 is left"):
        lifecycle.credit_note(invoice=invoice.pk, reason="again", now=AFTER)
    with pytest.raises(NotCreditable):
        lifecycle.credit_note(invoice=note.pk, reason="a note of a note", now=AFTER)
    with pytest.raises(IllegalMove):
        move(note, "void")


def test_a_void_months_next_invoice_has_the_next_number_and_is_owed(invoice: Invoice) -> None:
    mine = invoice.organization_id
    how: dict[str, Any] = {"organization": mine, "month": invoice.month, "now": AFTER}
    with pytest.raises(MonthClosed, match="once that is void"):
        invoice_again(**how)
    move(invoice, "void")
    with pytest.raises(MonthClosed):
        close_month(**how)
    said = StringIO()
    month = f"{invoice.month:%Y-%m}"
    slug = invoice.organization.slug
    call_command("close_month", "--organization", slug, "--month", month, "--again", stdout=said)
    assert "INV-2026-000002" in said.getvalue()
    again = Invoice.objects.for_org(mine).get(number="INV-2026-000002")
    assert (again.total_minor, again.merkle_root) == (invoice.total_minor, invoice.merkle_root)
    assert credit.owed(mine) == 100 * NANOS
    found = reconcile(invoice.organization, invoice.month).differences
    assert [each for each in found if each.kind is Kind.INVOICE] == []
    with pytest.raises(MonthClosed):
        invoice_again(**how)
    move(again, "paid")
    assert credit.owed(mine) == 0


def test_what_is_credited_of_an_open_invoice_is_owed_no_more(invoice: Invoice) -> None:
    lifecycle.credit_note(invoice=invoice.pk, reason="some", now=AFTER, minor=2_500)
    assert credit.owed(invoice.organization_id) == 75 * NANOS
    invoice.refresh_from_db()
    assert invoice.status == "open"
    move(invoice, "paid")
    assert credit.owed(invoice.organization_id) == 0


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    nanos=st.integers(10_000_000, 10**12),
    thousandths=st.integers(0, 30_000),
    parts=st.lists(st.integers(1, 10**5), max_size=4),
)
def test_notes_over_everything_sum_to_the_invoice_with_its_tax(
    account: Account, nanos: int, thousandths: int, parts: list[int]
) -> None:
    with transaction.atomic():
        rate("DE", thousandths)
        details(account)
        booked(entry(account.organization_id, amounts={"input_tokens": nanos}))
        invoice = close(account)
        for part in parts:
            if part < invoice.total_minor // 5:
                lifecycle.credit_note(invoice=invoice.pk, reason="p", now=AFTER, minor=part)
        lifecycle.credit_note(invoice=invoice.pk, reason="rest", now=AFTER)
        notes = list(invoice.credit_notes.across_organizations())
        transaction.set_rollback(True)
    assert sum(note.total_minor for note in notes) == -invoice.total_minor
    assert sum(note.tax_minor for note in notes) == -invoice.tax_minor
    assert sum(note.subtotal for note in notes) == -invoice.subtotal
    assert all(note.total_minor < 0 and note.tax_minor <= 0 for note in notes)


@pytest.mark.django_db(transaction=True)
def test_numbers_have_no_gaps_however_many_issue_at_once_and_fail(
    account: Account, other: Account
) -> None:
    months = [date(2026, month, 1) for month in range(1, 11)]
    for each in (account, other):
        for month in months:
            booked(
                entry(each.organization_id, amounts=HUNDRED),
                now=NOW.replace(month=month.month),
            )

    def closes_and_fails(which: Account, month: date) -> None:
        with transaction.atomic():
            close(which, month)
            raise Cut

    def one(which: Account, month: date) -> None:
        if month.month % 3 == 0:
            with pytest.raises(Cut):
                closes_and_fails(which, month)
        close(which, month)

    work = [(which, month) for month in months for which in (account, other)]
    steps = [on_its_own_connection(partial(one, *pair)) for pair in work]
    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(step) for step in steps]
        for job in jobs:
            job.result()
    numbers = Invoice.objects.across_organizations().values_list("number", flat=True)
    assert sorted(str(number) for number in numbers) == [
        f"INV-2026-{number:06d}" for number in range(1, 21)
    ]


class Cut(OperationalError):
    """The connection went away."""


class Killer:
    """Ends the connection before its n-th statement, as a killed process would."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if self.left == 0:
            context["connection"].connection.close()
            raise Cut(sql)
        self.left -= 1
        return execute(sql, params, many, context)


@pytest.mark.django_db(transaction=True)
def test_a_closing_killed_at_any_statement_and_run_again_makes_one_invoice(
    account: Account,
) -> None:
    rate("DE", 19_000)
    details(account)
    month, killed = date(2025, 1, 1), 0
    while True:
        booked(entry(account.organization_id, amounts=HUNDRED), now=NOW.replace(year=2025, month=1))
        killer = Killer(killed)
        try:
            with connection.execute_wrapper(killer):
                close(account, month)
            break
        except OperationalError:  # a `Cut`, or that the schema could not be chosen for one
            connection.close()
        assert Invoice.objects.for_org(account.organization_id).count() == 0
        assert not Period.objects.for_org(account.organization_id).exclude(closed_at=None)
        assert not InvoiceSeries.objects.exists()
        killed += 1
    assert killed > 15
    with pytest.raises(MonthClosed):
        close(account, month)
    invoice = Invoice.objects.for_org(account.organization_id).get()
    due = sum(row.amount for row in LedgerEntry.objects.for_org(account.organization_id))
    assert invoice.subtotal == due == (killed + 1) * 100 * NANOS
    assert invoice.number == "INV-2026-000001"
    assert InvoiceLine.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_a_closing_whose_commit_was_never_acknowledged_stands(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    booked(entry(account.organization_id, amounts=HUNDRED))
    commit = connection.commit

    def commits_and_dies() -> None:
        commit()
        raise Cut("COMMIT")

    with monkeypatch.context() as patch:
        patch.setattr(connection, "commit", commits_and_dies)
        with pytest.raises(Cut):
            close(account)
    connection.close()
    with pytest.raises(MonthClosed):
        close(account)
    assert Invoice.objects.for_org(account.organization_id).get().number == "INV-2026-000001"


def test_the_pdf_shows_what_the_invoice_says(invoice: Invoice) -> None:
    data = as_data(invoice)
    assert (data["number"], data["total"], data["month"]) == (
        "INV-2026-000001",
        "EUR 100.00",
        "November 2026",
    )
    made = invoice_pdf(invoice)
    assert made.startswith(b"%PDF-")
    assert invoice_pdf(invoice) == made


@pytest.mark.parametrize(
    "text", ["#panic()", "*bold* $x$ @ref <label>", "\\u{0}", 'a"b\\c', "漢字"]
)
def test_nothing_a_customer_writes_is_markup(invoice: Invoice, text: str) -> None:
    invoice.buyer = {**invoice.buyer, "name": text, "address": text}
    assert invoice_pdf(invoice).startswith(b"%PDF-")


def test_a_credit_notes_pdf_names_what_it_corrects(invoice: Invoice) -> None:
    note = lifecycle.credit_note(invoice=invoice.pk, reason="a bad model", now=AFTER, minor=1)
    data = as_data(note)
    assert (data["title"], data["corrects"], data["net"]) == (
        "Credit note",
        "INV-2026-000001",
        "EUR -0.01",
    )
    assert invoice_pdf(note).startswith(b"%PDF-")


def test_the_csv_has_every_row_and_no_formula(account: Account, other: Account) -> None:
    mine = account.organization_id
    made = [entry(mine, label="=1+1"), entry(mine, label="plain"), entry(mine)]
    booked(*made, entry(other.organization_id))
    booked(entry(mine), now=AFTER)
    text = "".join(usage_csv(close(account)))
    lines = text.splitlines()
    assert lines[0].startswith("request,created_at,key,model,state,input_tokens,output_tokens")
    assert [line.split(",")[0] for line in lines[1:]] == sorted(str(row.request) for row in made)
    assert all(",0.000004500,EUR," in line for line in lines[1:])
    assert "'=1+1" in text


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [(1230, "EUR", "12.30"), (-5, "EUR", "-0.05"), (1200, "JPY", "1200"), (7, "KWD", "0.007")],
)
def test_minor_units_are_written_in_the_currencys_own_digits(
    minor: int, currency: str, text: str
) -> None:
    assert plain(minor, currency) == text


def test_a_month_is_closed_on_time_whatever_day_it_is(account: Account) -> None:
    booked(entry(account.organization_id, amounts=HUNDRED))
    assert close(account, NOVEMBER, AFTER + timedelta(days=400)).number == "INV-2028-000001"
