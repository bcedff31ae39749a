"""Money given back at the provider: it is credit no more, and each night compared."""

import time
from dataclasses import replace
from datetime import timedelta

import pytest
from django.test import Client
from prometheus_client import REGISTRY
from redis import Redis

from analytics import reconciliation, tasks
from analytics.reconciliation import Kind, reconcile
from billing import (
    collecting,
    credit,
    events,
    gateway,
    grants,
    lifecycle,
    refunded,
    refunds,
)
from billing.models import Account
from billing.months import month_of
from billing.receivables import Collection, Mail, Payment, Refund
from billing.refunds import NotRefundable
from kit.money import NANOS
from tenants.audit import Actor
from tenants.models import AuditEntry, User
from tests import factories
from tests.billing.rows import entry
from tests.billing.test_allowances import bought, differences, hear, now, spend
from tests.billing.test_invoicing import AFTER, close
from tests.billing.test_ledger import booked
from tests.billing.test_payments import FAILS_LATER, GOOD, TAKES_DAYS, collect, receive, save_card
from tests.stripe.payments import close_dispute, create_refund, dispute, end_refund
from tests.stripe.server import Double


@pytest.fixture(autouse=True)
def _redis(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty; and nothing is on its way."""
    monkeypatch.setattr(reconciliation, "_ON_ITS_WAY", timedelta(days=-365))


def apart(account: Account) -> dict[str, str]:
    """What the provider's side has otherwise."""
    found = reconcile(account.organization, month_of(now())).differences
    return {each.subject: each.found for each in found if each.kind is Kind.PROVIDER}


def give_back(double: Double, amount: int) -> str:
    """In Stripe's dashboard; the payment."""
    [intent] = double.of("payment_intent", status="succeeded")
    create_refund(double.state, {"payment_intent": intent["id"], "amount": amount})
    return str(intent["id"])


@pytest.mark.parametrize(
    ("refunded", "left", "owed"), [(2_500, 0, 10), (2_000, 0, 5), (1_000, 5, 0)]
)
def test_a_top_up_that_is_refunded_at_stripe_is_credit_no_more(
    double: Double, account: Account, refunded: int, left: int, owed: int
) -> None:
    mine = account.organization_id
    bought(double, account, GOOD)
    spend(account, 10 * NANOS)
    assert apart(account) == {}
    payment = give_back(double, refunded)
    assert apart(account) == {f"{payment} refunded": f"0, there {refunded}"}
    hear(double)
    assert apart(account) == {}
    assert grants.left(mine, now=now()) == left * NANOS
    assert credit.owed(mine) == owed * NANOS
    credit.renew(mine)
    assert Kind.CREDIT not in {each.kind for each in differences(account)}


def ask(account: Account, minor: int | None) -> Refund:
    """By an operator, of the one payment."""
    [payment] = Payment.objects.for_org(account.organization_id)
    return refunds.ask(
        payment=payment.pk, minor=minor, reason="they leave", now=now(), by=Actor("user:op")
    )


def back(double: Double) -> list[int]:
    """What went back to the card."""
    return sorted(each["amount"] for each in double.of("refund"))


def test_what_is_unspent_of_a_top_up_is_given_back_once(double: Double, account: Account) -> None:
    mine = account.organization_id
    bought(double, account, GOOD)
    spend(account, 10 * NANOS)
    ask(account, 1_000)
    assert grants.left(mine, now=now()) == 5 * NANOS
    hear(double)
    with pytest.raises(NotRefundable, match="under way"):
        ask(account, 1)
    for fault in ("cut", "500"):
        double.fail(fault, "POST /v1/refunds", 1)
        refunds.watch(now=now())
    for _ in range(2):
        refunds.watch(now=now())
        hear(double)
    assert (back(double), apart(account)) == ([1_000], {})
    assert (grants.left(mine, now=now()), credit.owed(mine)) == (5 * NANOS, 0)
    with pytest.raises(NotRefundable, match=r"EUR 5\.00 of it is unspent"):
        ask(account, 501)
    ask(account, None)
    assert refunds.watch(now=now()) == 1
    hear(double)
    assert (back(double), grants.left(mine, now=now())) == ([500, 1_000], 0)
    assert (credit.owed(mine), apart(account)) == (0, {})


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("step", ["refunds_of", "refund"])
def test_whoever_dies_before_or_after_asking_and_is_away_for_days_gives_back_once(
    double: Double, account: Account, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """By a clock that was a year ahead, too: what it had taken is nobody's."""
    bought(double, account, GOOD)
    row = ask(account, 1_000)
    real = getattr(gateway, step)

    def die(**how: object) -> None:
        if step == "refund":
            real(**how)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(gateway, step, lambda *_, **how: die(**how))
        with pytest.raises(Killed):
            refunds.watch(now=now() + timedelta(days=365))
    year = now() + timedelta(days=365, minutes=5)
    Refund.objects.for_org(account.organization_id).update(leased_until=year)
    later = time.time() + 2 * 86_400
    monkeypatch.setattr(double.state, "clock", lambda: later)
    for _ in range(2):
        refunds.watch(now=now() + timedelta(days=2))
    row.refresh_from_db()
    assert (row.status, back(double)) == ("done", [1_000])
    assert grants.left(account.organization_id, now=now()) == 15 * NANOS


@pytest.mark.parametrize("minor", [None, 1_000])
def test_a_refund_that_is_rejected_is_credit_again(
    double: Double, account: Account, minor: int | None
) -> None:
    bought(double, account, GOOD)
    row = ask(account, minor)
    assert grants.left(account.organization_id, now=now()) == (0 if minor is None else 15) * NANOS
    double.of("charge")[0]["disputed"] = True
    refunds.watch(now=now())
    row.refresh_from_db()
    assert (row.status, "disputed" in row.failure, back(double)) == ("failed", True, [])
    assert grants.left(account.organization_id, now=now()) == 25 * NANOS
    assert row.payment.refunded_minor == 0


@pytest.mark.parametrize("is_heard", [True, False])
def test_a_refund_that_fails_days_later_is_credit_again_and_told_once(
    double: Double, account: Account, is_heard: bool
) -> None:
    mine = account.organization
    factories.member(factories.user("alice"), mine)
    bought(double, account, FAILS_LATER)
    spend(account, 10 * NANOS)
    row = ask(account, None)
    assert refunds.watch(now=now()) == 1
    old = gateway.refunds_of(str(row.payment.reference))
    if is_heard:
        hear(double)
    else:
        later = now() + timedelta(minutes=61)
        assert [refunds.watch(now=later) for _ in range(2)] == [0, 0]
    refunded.learn(str(row.payment.reference), [replace(old[0], status="succeeded")], now=now())
    [said] = refunded.listed(mine.pk)
    assert (said.status, said.failure) == (Refund.Status.FAILED, "expired or canceled card")
    assert (grants.left(mine.pk, now=now()), credit.owed(mine.pk)) == (15 * NANOS, 0)
    assert apart(account) == {}
    [mail] = Mail.objects.for_org(mine)
    assert "EUR 15.00" in mail.subject
    assert "credit of Acme again" in mail.text
    ask(account, 1_500)


def test_a_refund_made_at_stripe_that_fails_pays_again_for_what_it_had_paid(
    double: Double, account: Account
) -> None:
    mine = account.organization_id
    bought(double, account, GOOD)
    spend(account, 10 * NANOS)
    give_back(double, 500)
    hear(double)
    payment = give_back(double, 2_000)
    hear(double)
    assert (grants.left(mine, now=now()), credit.owed(mine)) == (0, 10 * NANOS)
    for refund, left in zip(double.of("refund"), (10, 15), strict=True):
        end_refund(double.state, refund["id"], "failed")
        hear(double)
        assert (grants.left(mine, now=now()), credit.owed(mine)) == (left * NANOS, 0)
    assert differences(account) == ()
    account.organization.refunds.across_organizations().delete()
    for _ in range(2):
        refunded.note(payment, now=now())
    assert {each.status for each in refunded.listed(mine)} == {Refund.Status.FAILED}
    assert grants.left(mine, now=now()) == 15 * NANOS


def test_a_refund_that_takes_days_is_on_its_way_until_it_is_there(
    double: Double, account: Account
) -> None:
    bought(double, account, TAKES_DAYS)
    row = ask(account, None)
    assert refunds.watch(now=now()) == 0
    assert [each.status for each in refunded.listed(account.organization_id)] == ["sent"]
    end_refund(double.state, double.of("refund")[0]["id"], "succeeded")
    for _ in range(2):
        hear(double)
        row.refresh_from_db()
        assert (row.status, back(double)) == ("done", [2_500])
    assert refunds.watch(now=now() + timedelta(days=40)) == 0
    row.refresh_from_db()
    assert row.next_at is None


@pytest.mark.urls("tests.billing.urls")
def test_operators_give_top_ups_back_in_the_admin(
    double: Double, account: Account, client: Client
) -> None:
    bought(double, account, GOOD)
    client.force_login(User.objects.create_superuser("op@example.com", "unused"))
    [payment] = Payment.objects.for_org(account.organization_id)
    given = {"payment": payment.pk, "amount": "25.01", "reason": "they leave"}
    page = client.post("/admin/billing/refund/add/", given)
    assert "EUR 25.00 of it is unspent" in page.content.decode()
    assert client.get("/admin/billing/refund/add/").status_code == 200
    assert client.post("/admin/billing/refund/add/", {**given, "amount": "4"}).status_code == 302
    assert client.get("/admin/billing/refund/").status_code == 200
    told = AuditEntry.objects.for_org(account.organization_id).get(action="top_up.refunded")
    assert (told.actor_name, told.after["amount_minor"]) == ("op@example.com", 400)
    assert refunds.watch(now=now()) == 1
    assert back(double) == [400]


def test_two_refunds_of_a_top_up_take_back_both_parts(double: Double, account: Account) -> None:
    bought(double, account, GOOD)
    for left in (15, 5):
        give_back(double, 1_000)
        hear(double)
        assert grants.left(account.organization_id, now=now()) == left * NANOS


def test_a_refund_that_is_heard_before_its_payment_is_heard_again(
    double: Double, account: Account
) -> None:
    bought(double, account, GOOD)
    give_back(double, 1_000)
    account.organization.payments.across_organizations().update(reference=None)
    event = next(each for each in double.state.events if each["type"] == "charge.refunded")
    assert not events.handle(receive(double, event), now=now())


def test_a_payment_that_was_won_back_is_no_difference(double: Double, account: Account) -> None:
    bought(double, account, GOOD)
    made = dispute(double.state, double.of("charge")[0])
    [said] = apart(account).items()
    assert said[1] == "succeeded, there disputed"
    close_dispute(double.state, made, "won")
    hear(double)
    assert apart(account) == {}


def test_credit_notes_and_what_they_gave_back_are_compared(
    double: Double, account: Account
) -> None:
    amounts = {"input_tokens": 100 * NANOS}
    booked(entry(account.organization_id, units={"input_tokens": 1}, amounts=amounts))
    invoice = close(account)
    save_card(double, account, GOOD)
    collect()
    lifecycle.credit_note(invoice=invoice.pk, reason="sorry", now=AFTER, minor=1_000)
    collecting.wake(now=AFTER, organization=account.organization)
    collect()
    hear(double)
    Collection.objects.for_org(account.organization_id).update(next_at=None)
    assert apart(account) == {}
    payment = give_back(double, 500)
    hear(double)
    assert apart(account) == {f"{payment} refunded": "1000, there 1500"}
    [note] = double.of("credit_note")
    note["total"] = 900
    assert "1000, there 900" in apart(account).values()


def test_a_provider_that_does_not_answer_leaves_the_other_books_compared(
    double: Double, account: Account
) -> None:
    bought(double, account, GOOD)
    spend(account, 1)
    double.fail("cut", "GET /v1/", 100)
    report = reconcile(account.organization, month_of(now()))
    assert "could not be asked" in report.unread
    assert Kind.HISTORY in {each.kind for each in report.differences}
    tasks.reconcile_nightly()
    assert REGISTRY.get_sample_value("reconciliation_failed_organizations") == 1


def test_what_began_just_now_is_on_its_way_and_no_difference(
    double: Double, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    bought(double, account, GOOD)
    account.organization.payments.across_organizations().delete()
    assert list(apart(account).values()) == ["no payment, there 2500"]
    monkeypatch.setattr(reconciliation, "_ON_ITS_WAY", timedelta(minutes=10))
    assert apart(account) == {}
