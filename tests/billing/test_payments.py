"""Invoices paid by card: through Stripe's package, against its double, whatever breaks."""

import re
from contextlib import suppress
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core import mail
from django.core.checks import run_checks
from django.db import connection
from django.test import AsyncClient
from redis import Redis

from billing import checkouts, collecting, events, gateway, lifecycle, mails, mirror, tasks
from billing.models import Account, BillingDetails, Invoice, TaxRate
from billing.receivables import (
    Collection,
    Mail,
    Payment,
    PaymentProfile,
    ProviderEvent,
)
from billing.remote import Buyer, Failed, Forged, Unanswered
from kit.money import NANOS
from tenants.models import Organization
from tests import factories
from tests.billing import rows
from tests.billing.rows import NOW, entry
from tests.billing.test_invoicing import AFTER, close
from tests.billing.test_ledger import booked
from tests.stripe import invoices as double_invoices
from tests.stripe.payments import clear, close_dispute
from tests.stripe.server import Double
from tests.stripe.state import CARDS, Failure

GOOD, DECLINED, DISPUTED = "4242424242424242", "4000000000000341", "4000000000000259"
FAILS_LATER, TAKES_DAYS = "4000000000005126", "4000000000007726"
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _seller(settings: Any, redis: Redis) -> None:
    """In Hamburg, with short memories for mails."""
    settings.SELLER = {**settings.SELLER, "country": "DE", "name": "Nordlicht"}


@pytest.fixture
def details(account: Account) -> BillingDetails:
    """Acme's, in Germany, taxed at 19 %."""
    TaxRate.objects.create(country="DE", rate=19_000, effective_from=AFTER.date())
    return BillingDetails.objects.create(
        organization=account.organization,
        name="Acme GmbH",
        address="Weg 1",
        country="DE",
        vat_id="DE123456789",
        email="money@acme.example",
    )


def save_card(double: Double, account: Account, number: str, now: datetime = AFTER) -> None:
    """What a member does on Checkout's page, and the webhook after it."""
    wanted = checkouts.ask(
        organization=account.organization_id, kind="card", back="https://x.example", now=now
    )
    checkouts.open_page(wanted.pk, now=wanted.created_at)
    wanted.refresh_from_db()
    double.give_card(str(wanted.remote), number)
    checkouts.complete(str(wanted.remote), now=now)


@pytest.fixture
def invoice(double: Double, details: BillingDetails, account: Account) -> Invoice:
    """Of EUR 119, tax included."""
    amounts = {"input_tokens": 60 * NANOS, "output_tokens": 40 * NANOS}
    booked(entry(account.organization_id, amounts=amounts))
    return close(account)


def collect(now: datetime = AFTER) -> None:
    for collection in collecting.due(now=now):
        collecting.advance(collection, now=now)


def status(invoice: Invoice) -> str:
    invoice.refresh_from_db()
    return invoice.status


def charged(double: Double) -> list[int]:
    """What reached cards in all."""
    return [each["amount"] for each in double.of("charge", status="succeeded")]


def letters() -> list[str]:
    keys = Mail.objects.across_organizations().order_by("pk").values_list("key", flat=True)
    return [re.sub(r"^invoice-\d+-", "", key) for key in keys]


def test_pages_are_asked_for_no_more_often_than_an_hour_allows(
    double: Double, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkouts, "MOST_AN_HOUR", 2)

    def ask(minute: int, key: str = "") -> Any:
        now = AFTER + timedelta(minutes=minute)
        mine = account.organization_id
        return checkouts.ask(
            organization=mine, kind="card", back="https://x.example", now=now, key=key
        )

    first = ask(0, "once")
    ask(20)
    with pytest.raises(checkouts.TooManyPages) as refused:
        ask(40)
    assert refused.value.retry_after == 20 * 60
    assert ask(41, "once") == first, "what is there already is no new one"
    assert ask(61).pk != first.pk


def test_a_saved_card_is_charged_for_what_the_invoice_says(
    double: Double, account: Account, invoice: Invoice
) -> None:
    save_card(double, account, GOOD)
    collect()
    assert (status(invoice), charged(double)) == ("paid", [11_900])
    [there] = double.of("invoice")
    assert (there["number"], there["status"], there["total"]) == (invoice.number, "paid", 11_900)
    assert [line["amount"] for line in there["lines"]["data"]] == [6_000, 4_000, 1_900]
    [customer] = double.of("customer")
    assert (customer["name"], customer["email"]) == ("Acme GmbH", "money@acme.example")
    assert [each["value"] for each in double.of("tax_id")] == ["DE123456789"]
    payment = Payment.objects.for_org(account.organization_id).get()
    assert (payment.status, payment.amount_minor) == ("succeeded", 11_900)
    assert [step.note for step in invoice.moves.all()][-1] == f"Stripe {payment.reference}"
    assert letters() == ["issued-0", "paid-0"]
    assert PaymentProfile.objects.for_org(account.organization_id).get().card == "visa •••• 4242"


def test_collecting_again_charges_nothing_more(
    double: Double, account: Account, invoice: Invoice
) -> None:
    save_card(double, account, GOOD)
    for _ in range(3):
        collecting.wake(now=AFTER, invoice=invoice)
        collect()
    assert charged(double) == [11_900]
    assert letters() == ["issued-0", "paid-0"]


def test_a_declined_card_is_reminded_of_tried_again_and_at_last_shut_out(
    double: Double, account: Account, invoice: Invoice
) -> None:
    save_card(double, account, DECLINED)
    organization, now = account.organization, AFTER
    for days in (1, 3, 5, 7, 7):
        collect(now)
        collecting.wake(now=now, invoice=invoice)
        collect(now + timedelta(hours=1))
        organization.refresh_from_db()
        assert organization.suspended_at is None
        now += timedelta(days=days)
    collect(now)
    organization.refresh_from_db()
    assert organization.suspended_reason.startswith(f"The invoice {invoice.number} is unpaid.")
    reminders = [f"reminder-{n}" for n in (1, 2, 3, 4)]
    assert letters() == ["issued-0", *reminders, "grace-0", "suspended-0"]
    assert len(double.of("charge")) == 6
    assert charged(double) == []
    assert status(invoice) == "open"

    save_card(double, account, GOOD, now)
    collect(now)
    organization.refresh_from_db()
    assert (status(invoice), charged(double)) == ("paid", [11_900])
    assert organization.suspended_at is None
    assert letters()[-2:] == ["paid-0", "reinstated-0"]


def test_a_suspension_by_an_operator_is_not_lifted_by_a_payment(
    double: Double, account: Account, invoice: Invoice
) -> None:
    Organization.objects.filter(pk=account.organization_id).update(
        suspended_at=AFTER, suspended_reason="abuse"
    )
    save_card(double, account, GOOD)
    collect()
    assert status(invoice) == "paid"
    assert Organization.objects.get(pk=account.organization_id).suspended_reason == "abuse"


def test_without_a_card_nothing_is_late_before_its_day(
    double: Double, account: Account, invoice: Invoice
) -> None:
    collect()
    collect(AFTER + 13 * DAY)
    assert letters() == ["issued-0"]
    collect(AFTER + 16 * DAY)
    assert letters() == ["issued-0", "reminder-1"]
    assert [each["status"] for each in double.of("invoice")] == ["open"]


STEPS = (
    "POST /v1/customers$",
    "POST /v1/customers/[^/]+/tax_ids",
    "POST /v1/invoices$",
    "POST /v1/invoiceitems",
    "POST /v1/invoices/[^/]+/finalize",
    "POST /v1/invoices/[^/]+/pay",
    "GET /v1/invoices/[^/]+$",
    "GET /v1/invoice_payments",
)


@pytest.mark.parametrize("kind", ["error", "error_after", "cut", "cut_after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_failure_at_any_step_costs_nobody_twice(
    double: Double, account: Account, invoice: Invoice, step: str, kind: str
) -> None:
    double.fail(kind, step)
    save_card_whatever(double, account)
    for minutes in range(0, 20, 2):
        collect(AFTER + timedelta(minutes=minutes))
    assert double.faults[0].times == 0
    assert (status(invoice), charged(double)) == ("paid", [11_900])
    assert [each["total"] for each in double.of("invoice")] == [11_900]
    assert [each["status"] for each in double.of("invoice")] == ["paid"]


def save_card_whatever(double: Double, account: Account) -> None:
    for _ in range(3):
        with suppress(Failed, Unanswered, Failure):
            return save_card(double, account, GOOD)
    raise AssertionError("the card could not be saved")


class Killed(BaseException):
    """The process is gone."""


class KillAt:
    """Kills at the n-th write or call to Stripe."""

    def __init__(self, moment: int) -> None:
        self.left = moment

    def tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed

    def statement(self, execute: Any, sql: Any, *arguments: Any) -> Any:
        if not str(sql).startswith("SELECT"):
            self.tick()
        return execute(sql, *arguments)

    def ask(self, call: Any) -> Any:
        self.tick()
        found = _ASK(call)
        self.tick()
        return found


_ASK = gateway._ask


@pytest.mark.django_db(transaction=True)
def test_a_crash_at_each_moment_of_charging_and_again_makes_one_charge(
    transactional_db: None, double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write and both sides of every call, each the last thing a process did."""
    account = rows.account("acme")
    factories.member(factories.user("alice"), account.organization)
    booked(
        entry(
            account.organization_id,
            amounts={"input_tokens": 100 * NANOS},
            units={"input_tokens": 1},
        )
    )
    invoice, moment, done = close(account), 0, False
    save_card(double, account, GOOD)
    stored = [
        Collection.objects.across_organizations().values().get(),
        PaymentProfile.objects.across_organizations().values().get(),
    ]
    there = dict(double.state.objects)
    while not done:
        moment += 1
        killer = KillAt(moment)
        monkeypatch.setattr(gateway, "_ask", killer.ask)
        try:
            with connection.execute_wrapper(killer.statement):
                collect()
            done = True
        except Killed:
            pass
        monkeypatch.setattr(gateway, "_ask", _ASK)
        collect(AFTER + timedelta(minutes=6))
        assert charged(double) == [10_000], moment
        assert status(invoice) == "paid"
        again(invoice, stored, double, there)
    assert moment > 30


def again(invoice: Invoice, stored: list[Any], double: Double, there: dict[str, Any]) -> None:
    """Everything as it was before anybody charged."""
    Payment.objects.across_organizations().delete()
    Mail.objects.across_organizations().delete()
    invoice.moves.filter(target="paid").delete()
    Invoice.objects.for_org(invoice.organization_id).update(status="open")
    Collection.objects.across_organizations().update(**stored[0])
    PaymentProfile.objects.across_organizations().update(**stored[1])
    double.state.objects = {name: dict(each) for name, each in there.items()}
    double._answers.clear()


def webhook(double: Double, event: dict[str, Any], **how: Any) -> tuple[bytes, str]:
    return double.signed(event, **how)


@async_to_sync
async def post(body: bytes, signature: str) -> int:
    answer = await AsyncClient().post(
        "/api/v1/stripe/events",
        body,
        content_type="application/json",
        headers={"Stripe-Signature": signature},
    )
    return int(answer.status_code)


@pytest.fixture
def paid(double: Double, account: Account, invoice: Invoice) -> Invoice:
    """Paid by card, its webhooks not yet here."""
    save_card(double, account, GOOD)
    collect()
    return invoice


def receive(double: Double, event: dict[str, Any]) -> str:
    body, signature = double.signed(event)
    return events.receive(body=body, signature=signature, now=AFTER)


@pytest.mark.parametrize("seed", range(5))
def test_webhooks_in_any_order_five_times_each_change_nothing_twice(
    double: Double, paid: Invoice, seed: int
) -> None:
    told = [each for each in double.state.events for _ in range(5)]
    Random(seed).shuffle(told)  # noqa: S311
    before = charged(double), letters(), paid.moves.count()
    for event in told:
        identifier = receive(double, event)
        events.handle(identifier, now=AFTER)
        collect()
    for event in double.state.events:
        events.replay(event["id"])
        assert events.handle(event["id"], now=AFTER)
        collect()
    assert (charged(double), letters(), paid.moves.count()) == before
    assert ProviderEvent.objects.count() == len(double.state.events)
    assert not ProviderEvent.objects.filter(handled_at=None).exists()


def test_an_event_that_cannot_be_handled_says_why_and_waits(
    double: Double, paid: Invoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = receive(double, double.state.events[0])
    with monkeypatch.context() as patch:
        patch.setattr(events, "_follow", lambda *_: 1 // 0)
        assert not events.handle(event, now=AFTER)
    row = ProviderEvent.objects.get(pk=event)
    assert (row.handled_at, "division" in row.error) == (None, True)
    assert not events.handle(event, now=AFTER)
    assert events.handle(event, now=AFTER + timedelta(hours=1))


def pay_there(double: Double) -> None:
    """At Stripe, with the saved card; we hear of it."""
    [there], [customer] = double.of("invoice"), double.of("customer")
    method = customer["invoice_settings"]["default_payment_method"]
    gateway.pay(there["id"], method=method, key="by-hand")
    event = next(each for each in double.state.events if each["type"] == "invoice.paid")
    events.handle(receive(double, event), now=AFTER)
    collect()


def test_what_stripe_did_without_us_is_learned_from_its_webhook(
    double: Double, account: Account, invoice: Invoice
) -> None:
    collect()
    save_card(double, account, GOOD)
    pay_there(double)
    assert (status(invoice), charged(double)) == ("paid", [11_900])


def test_a_dispute_is_written_down_and_told(
    double: Double, account: Account, invoice: Invoice
) -> None:
    save_card(double, account, DISPUTED)
    collect()
    for event in double.state.events:
        events.handle(receive(double, event), now=AFTER)
    payment = Payment.objects.for_org(account.organization_id).get()
    assert (payment.status, letters()[-1].split("-")[0]) == ("disputed", "dispute")


def told(double: Double) -> None:
    """Every event so far, twice."""
    for event in [*double.state.events, *double.state.events]:
        events.handle(receive(double, event), now=AFTER)


@pytest.mark.parametrize("suspends", [True, False])
def test_a_lost_dispute_suspends_once_and_no_other_payment_lifts_it(
    double: Double, account: Account, invoice: Invoice, settings: Any, suspends: bool
) -> None:
    settings.LOST_DISPUTE_SUSPENDS = suspends
    save_card(double, account, DISPUTED)
    collect()
    told(double)
    [dispute] = double.state.of("dispute")
    close_dispute(double.state, dispute, "lost")
    told(double)
    organization = account.organization
    organization.refresh_from_db()
    assert (organization.suspended_at is not None) == suspends
    payment = Payment.objects.for_org(organization).get()
    assert payment.status == "lost"
    assert [each for each in letters() if each.endswith("-lost")] == [
        f"dispute-{dispute['id']}-lost"
    ]
    mail = Mail.objects.for_org(organization).get(key=f"dispute-{dispute['id']}-lost")
    assert ("is suspended" in mail.text) == suspends


def test_a_credit_note_of_a_paid_invoice_gives_the_money_back_once(
    double: Double, account: Account, paid: Invoice
) -> None:
    lifecycle.credit_note(invoice=paid.pk, reason="sorry", now=AFTER, minor=1_000)
    for minutes in (0, 6, 12):
        collecting.wake(now=AFTER, organization=account.organization)
        collect(AFTER + timedelta(minutes=minutes))
    assert [each["amount"] for each in double.of("refund")] == [1_190]
    assert [each["memo"] for each in double.of("credit_note")] == ["sorry"]


def test_a_credit_note_of_an_open_invoice_lowers_what_is_charged(
    double: Double, account: Account, invoice: Invoice
) -> None:
    collect()
    lifecycle.credit_note(invoice=invoice.pk, reason="sorry", now=AFTER, minor=1_000)
    collect()
    save_card(double, account, GOOD)
    collect()
    assert (status(invoice), charged(double)) == ("paid", [11_900 - 1_190])
    assert double.of("refund") == []


def test_a_transfer_ends_the_charging_there(
    double: Double, account: Account, invoice: Invoice
) -> None:
    collect()
    lifecycle.move(invoice=invoice.pk, to="paid", now=AFTER, note="transfer 7")
    collect()
    save_card(double, account, GOOD)
    collect()
    assert [each["status"] for each in double.of("invoice")] == ["paid"]
    assert charged(double) == []


def test_a_charge_that_crossed_a_transfer_goes_back(
    double: Double, account: Account, invoice: Invoice
) -> None:
    collect()
    save_card(double, account, GOOD)
    [there] = double.of("invoice")
    method = PaymentProfile.objects.for_org(account.organization_id).get().method
    gateway.pay(there["id"], method=method, key="crossed")
    lifecycle.move(invoice=invoice.pk, to="paid", now=AFTER, note="transfer 7")
    for _ in range(3):
        collecting.wake(now=AFTER, invoice=invoice)
        collect()
    assert [each["amount"] for each in double.of("refund")] == [11_900]


def test_an_invoice_of_more_lines_than_stripe_takes_is_charged_all_the_same(
    double: Double, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "_MOST_ITEMS", 4)
    monkeypatch.setattr(double_invoices, "MOST_ITEMS", 6)
    mine = account.organization_id
    for number in range(1, 5):
        amounts = {"input_tokens": number * NANOS, "output_tokens": 2 * number * NANOS}
        booked(entry(mine, project=f"p{number}", amounts=amounts))
    invoice = close(account)
    assert invoice.lines.count() == 8
    save_card(double, account, GOOD)
    collect()
    items = double.of("invoiceitem")
    assert [each["amount"] for each in items if "more lines" in each["description"]] == [1_200]
    assert len(items) == 4
    assert (status(invoice), charged(double)) == ("paid", [3_000])


def test_what_is_void_is_void_there(double: Double, account: Account, invoice: Invoice) -> None:
    collect()
    lifecycle.move(invoice=invoice.pk, to="void", now=AFTER, note="a mistake")
    collect()
    assert [each["status"] for each in double.of("invoice")] == ["void"]


@pytest.mark.parametrize(
    ("currency", "nanos", "minor"),
    [("EUR", 12_345_000_000, 1_234), ("JPY", 1_234 * NANOS, 1_234), ("KWD", 5_127_000_000, 5_120)],
)
def test_each_currency_is_charged_in_its_own_smallest_unit(
    double: Double, db: None, currency: str, nanos: int, minor: int
) -> None:
    account = rows.account("globex", currency=currency)
    booked(
        entry(
            account.organization_id,
            currency=currency,
            units={"input_tokens": 1},
            amounts={"input_tokens": nanos},
        )
    )
    invoice = close(account)
    save_card(double, account, GOOD)
    collect()
    assert (status(invoice), charged(double)) == ("paid", [minor])
    assert double.of("charge")[0]["currency"] == currency.lower()


def test_what_is_too_little_to_charge_waits_and_nobody_is_shut_out_for_it(
    double: Double, account: Account
) -> None:
    booked(
        entry(
            account.organization_id, units={"input_tokens": 1}, amounts={"input_tokens": NANOS // 4}
        )
    )
    invoice = close(account)
    save_card(double, account, GOOD)
    for days in range(0, 90, 10):
        collect(AFTER + timedelta(days=days))
    assert (status(invoice), double.of("invoice")) == ("open", [])
    assert Organization.objects.get(pk=account.organization_id).suspended_at is None


def test_without_stripe_a_transfer_is_awaited_and_reminded_of(
    account: Account, details: BillingDetails
) -> None:
    booked(entry(account.organization_id, amounts={"input_tokens": 60 * NANOS, "output_tokens": 0}))
    invoice = close(account)
    collect()
    collect(AFTER + 16 * DAY)
    lifecycle.move(invoice=invoice.pk, to="paid", now=AFTER, note="transfer 7")
    collect(AFTER + 17 * DAY)
    assert letters() == ["issued-0", "reminder-1", "paid-0"]
    mails.send_due(now=AFTER + 17 * DAY)
    mails.send_due(now=AFTER + 18 * DAY)
    assert [each.subject for each in mail.outbox] == [
        f"Invoice {invoice.number} over EUR 71.40",
        f"Invoice {invoice.number} is unpaid",
        f"Receipt for invoice {invoice.number}",
    ]
    assert mail.outbox[0].attachments[0][0] == f"{invoice.number}.pdf"
    assert mail.outbox[0].to == ["money@acme.example"]


def test_mails_go_to_owners_where_no_address_is_given(account: Account) -> None:
    factories.member(factories.user("alice"), account.organization)
    assert mails.recipients(account.organization) == ["alice@example.com"]


def test_the_poller_does_it_all(double: Double, account: Account, invoice: Invoice) -> None:
    save_card(double, account, GOOD)
    collecting.wake(now=NOW, invoice=invoice)
    assert tasks.collect() == 1
    assert status(invoice) == "paid"


@pytest.fixture
def committed(transactional_db: None, double: Double) -> Double:
    """For a web process of its own."""
    return double


@pytest.mark.parametrize(
    ("how", "answered"),
    [({}, 200), ({"secret": "whsec_other"}, 400), ({"at": 1_700_000_000}, 400)],
)
@pytest.mark.urls("tests.billing.urls")
@pytest.mark.django_db(transaction=True)
def test_only_what_stripe_signed_lately_is_kept(
    committed: Double, how: dict[str, Any], answered: int
) -> None:
    event = committed.state.tell("customer.created", _customer(committed))
    body, signature = committed.signed(event, **how)
    assert post(body, signature) == answered
    assert ProviderEvent.objects.count() == (1 if answered == 200 else 0)
    if answered == 200:
        assert post(body, signature) == 200
        assert post(body + b" ", signature) == 400
        assert post(body, "") == 400
        assert ProviderEvent.objects.count() == 1


def _customer(double: Double) -> dict[str, Any]:
    gateway.create_customer(organization=1, buyer=Buyer("x"), key="x")
    return double.of("customer")[0]


def test_without_a_secret_no_webhook_is_believed(double: Double, settings: Any) -> None:
    """An empty one anybody can sign with."""
    settings.STRIPE_WEBHOOK_SECRET = ""
    body, signature = double.signed(
        double.state.tell("customer.created", _customer(double)), secret=""
    )
    with pytest.raises(Forged, match="STRIPE_WEBHOOK_SECRET"):
        gateway.verify(body, signature)
    [error] = [
        each
        for each in run_checks(tags=["security"], include_deployment_checks=True)
        if each.id == "billing.E001"
    ]
    assert "STRIPE_WEBHOOK_SECRET" in error.msg


def test_a_debit_in_processing_is_no_payment_and_is_not_asked_for_again(
    double: Double, account: Account, invoice: Invoice
) -> None:
    save_card(double, account, GOOD)
    for card in double.state.cards:
        double.state.cards[card] = CARDS["DE89370400440532013000"]
    for hours in (0, 2, 30):
        collecting.wake(now=AFTER, invoice=invoice)
        collect(AFTER + timedelta(hours=hours))
    assert (status(invoice), charged(double), letters()) == ("open", [], ["issued-0"])
    [intent] = double.of("payment_intent")
    clear(double.state, intent)
    double_invoices.clear(double.state, double.of("invoice")[0])
    collect(AFTER + 2 * DAY)
    assert (status(invoice), charged(double)) == ("paid", [11_900])
    assert [each["status"] for each in double.of("invoice_payment")] == ["paid"]


def test_an_invoice_given_up_that_is_paid_at_stripe_is_paid(
    double: Double, account: Account, invoice: Invoice
) -> None:
    collect()
    lifecycle.move(invoice=invoice.pk, to="uncollectible", now=AFTER)
    save_card(double, account, GOOD)
    collect(AFTER + DAY)
    assert (status(invoice), charged(double)) == ("uncollectible", []), "nobody is asked any more"
    pay_there(double)
    assert (status(invoice), charged(double)) == ("paid", [11_900])


def test_what_stripe_rejects_each_day_is_reminded_of_and_at_last_shuts_out(
    double: Double, account: Account, invoice: Invoice
) -> None:
    """Asked for like a transfer: nothing is late before its day, and each day is a try."""
    save_card(double, account, GOOD)
    double.fail("400", "POST /v1/invoices/[^/]+/pay", 100)
    for days in range(15):
        collect(AFTER + timedelta(days=days))
    assert letters() == ["issued-0"]
    for days in range(15, 60):
        collect(AFTER + timedelta(days=days))
    reminders = [f"reminder-{n}" for n in (1, 2, 3, 4)]
    assert letters() == ["issued-0", *reminders, "grace-0", "suspended-0"]
    assert Organization.objects.get(pk=account.organization_id).suspended_at is not None
    double.faults.clear()
    collect(AFTER + timedelta(days=70))
    assert (status(invoice), charged(double)) == ("paid", [11_900])
    assert Organization.objects.get(pk=account.organization_id).suspended_at is None
