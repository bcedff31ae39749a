"""Top-ups: money that was taken is credit once, whatever the provider answers, and how late."""

import time
from datetime import timedelta
from typing import Any

import pytest
from redis import Redis

from billing import checkouts, events, grants, topups
from billing.allowances import AutoTopUp
from billing.models import Account
from billing.receivables import Checkout, Mail, Payment, ProviderEvent
from kit.money import NANOS
from tests import factories
from tests.billing.test_allowances import bought, hear, now
from tests.billing.test_payments import DISPUTED, GOOD, receive, save_card
from tests.stripe import payments as double_payments
from tests.stripe.server import Double
from tests.stripe.state import CARDS, Failure

DEBIT = "DE89370400440532013000"
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _redis(redis: Redis) -> None:
    """Empty."""


@pytest.fixture
def rule(double: Double, account: Account) -> AutoTopUp:
    """EUR 60 whenever less than EUR 130 is left: now, and not again after it."""
    factories.member(factories.user("alice"), account.organization)
    save_card(double, account, GOOD, now())
    return AutoTopUp.objects.create(
        organization=account.organization, below=130 * NANOS, amount_minor=6_000
    )


def watched(*minutes: int) -> None:
    for each in minutes:
        topups.watch(now=now() + timedelta(minutes=each))


def charges(double: Double) -> list[int]:
    return [each["amount"] for each in double.of("charge", status="succeeded")]


def left(account: Account) -> int:
    return grants.left(account.organization_id, now=now() + 10 * DAY) // NANOS


def test_a_charge_without_an_answer_is_credit_though_the_card_was_changed(
    double: Double, account: Account, rule: AutoTopUp
) -> None:
    double.fail("cut_after", "POST /v1/payment_intents")
    watched(0)
    save_card(double, account, GOOD, now())
    watched(1)
    rule.refresh_from_db()
    assert (charges(double), left(account), rule.stopped) == ([6_000], 60, "")


def test_a_key_that_stood_for_another_card_is_looked_up(
    double: Double, account: Account, rule: AutoTopUp
) -> None:
    """Nothing is there when it is looked for; then the first request comes through after all."""
    double.fail("late", "POST /v1/payment_intents")
    watched(0)
    save_card(double, account, GOOD, now())
    watched(1)
    double.finish()
    watched(2, 3)
    rule.refresh_from_db()
    assert (charges(double), left(account), rule.stopped) == ([6_000], 60, "")


@pytest.mark.parametrize("status", ["401", "403", "409", "429"])
def test_what_is_no_refusal_stops_no_rule(
    double: Double, account: Account, rule: AutoTopUp, status: str
) -> None:
    double.fail(status, "POST /v1/payment_intents", 2)
    watched(0, 1)
    rule.refresh_from_db()
    assert (rule.stopped, charges(double)) == ("", [])
    assert not Mail.objects.for_org(account.organization_id).exists()
    watched(2)
    assert (charges(double), left(account)) == ([6_000], 60)


def test_a_request_that_is_refused_stops_the_rule(
    double: Double, account: Account, rule: AutoTopUp
) -> None:
    double.fail("400", "POST /v1/payment_intents")
    watched(0, 6, 12)
    rule.refresh_from_db()
    assert (rule.stopped, charges(double)) == ("Not so.", [])


class Killed(BaseException):
    """The process is gone."""


def test_whoever_dies_between_charge_and_credit_and_is_away_for_days_charges_once(
    double: Double, account: Account, rule: AutoTopUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(topups, "_outcome", die)
        with pytest.raises(Killed):
            topups.watch(now=now())
    later = time.time() + 2 * 86_400
    monkeypatch.setattr(double.state, "clock", lambda: later)
    watched(2 * 24 * 60)
    assert (charges(double), left(account)) == ([6_000], 60)


@pytest.mark.parametrize(
    ("fault", "taken", "credited", "end"),
    [("cut_after", [6_000], 60, "succeeded"), ("cut", [], 0, "failed")],
)
def test_once_the_rule_is_gone_what_was_charged_is_credit_and_nothing_else_is_charged(
    double: Double,
    account: Account,
    rule: AutoTopUp,
    fault: str,
    taken: list[int],
    credited: int,
    end: str,
) -> None:
    double.fail(fault, "POST /v1/payment_intents")
    watched(0)
    rule.delete()
    watched(1, 6, 12)
    assert (charges(double), left(account)) == (taken, credited)
    assert Payment.objects.for_org(account.organization_id).get().status == end


def test_a_disputed_payment_stops_the_rule(
    double: Double, account: Account, rule: AutoTopUp
) -> None:
    save_card(double, account, DISPUTED, now())
    watched(0)
    hear(double)
    watched(6, 12)
    rule.refresh_from_db()
    assert ("disputed" in rule.stopped, charges(double), left(account)) == (True, [6_000], 0)


def test_a_debit_that_takes_days_is_no_credit_before_its_end(
    double: Double, account: Account, rule: AutoTopUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    for card in double.state.cards:
        double.state.cards[card] = CARDS[DEBIT]
    watched(0, 6, 12)
    assert (charges(double), left(account)) == ([], 0)
    [intent] = double.of("payment_intent", status="processing")
    double_payments.clear(double.state, intent)
    watched(18)
    assert (charges(double), left(account)) == ([6_000], 60)


def test_one_organization_that_fails_stops_no_other(
    double: Double, account: Account, other: Account, rule: AutoTopUp
) -> None:
    AutoTopUp.objects.for_org(account.organization_id).update(amount_minor=2**62)
    save_card(double, other, GOOD, now())
    AutoTopUp.objects.create(organization=other.organization, below=500 * NANOS, amount_minor=6_000)
    watched(0)
    assert left(other) == 60


def opened(double: Double, account: Account, kind: str = "top_up") -> Checkout:
    wanted = checkouts.ask(
        organization=account.organization_id,
        kind=kind,
        back="https://x.example",
        amount=25 * NANOS if kind == "top_up" else 0,
        now=now(),
    )
    checkouts.open_page(wanted.pk, now=now())
    wanted.refresh_from_db()
    return wanted


@pytest.mark.parametrize("kind", ["top_up", "card"])
def test_a_page_takes_nothing_but_cards(double: Double, account: Account, kind: str) -> None:
    page = opened(double, account, kind)
    with pytest.raises(Failure, match="not offered"):
        double.give_card(str(page.remote), DEBIT)


def test_a_debit_at_checkout_is_credit_once_it_came_in(double: Double, account: Account) -> None:
    """Should a page ever offer one, say one that was open when the platform was updated."""
    page = opened(double, account)
    double.of("checkout.session")[0]["payment_method_types"].append("sepa_debit")
    double.give_card(str(page.remote), DEBIT)
    hear(double)
    assert left(account) == 0
    [intent] = double.of("payment_intent")
    double_payments.clear(double.state, intent)
    hear(double)
    page.refresh_from_db()
    assert (left(account), page.status) == (25, "done")


def test_a_card_that_cannot_be_saved_is_credit_all_the_same(
    double: Double, account: Account
) -> None:
    page = opened(double, account)
    double.fail("400", "POST /v1/customers/[^/]+$")
    double.give_card(str(page.remote), GOOD)
    hear(double)
    page.refresh_from_db()
    assert (left(account), page.status) == (25, "done")


def test_a_page_whose_webhook_never_came_is_asked_about(double: Double, account: Account) -> None:
    page = opened(double, account)
    double.give_card(str(page.remote), GOOD)
    assert checkouts.unheard(now=now()) == []
    later = now() + timedelta(minutes=6)
    for session in checkouts.unheard(now=later):
        checkouts.complete(session, now=later)
    assert (left(account), checkouts.unheard(now=later + DAY)) == (25, [])


def test_a_page_that_nobody_finished_is_over(
    double: Double, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = opened(double, account)
    later = now() + 2 * DAY
    monkeypatch.setattr(double.state, "clock", later.timestamp)
    for session in checkouts.unheard(now=later):
        checkouts.complete(session, now=later)
    page.refresh_from_db()
    assert (page.status, "over" in page.error) == ("failed", True)


def test_a_dispute_that_is_heard_before_its_payment_halts_the_credit(
    double: Double, account: Account
) -> None:
    """In the double's own order, which is Stripe's: the dispute comes before the page's end."""
    page = opened(double, account)
    double.give_card(str(page.remote), DISPUTED)
    kinds = [each["type"] for each in double.state.events]
    assert kinds.index("charge.dispute.created") < kinds.index("checkout.session.completed")
    early = next(each for each in double.state.events if "dispute" in each["type"])
    assert not events.handle(receive(double, early), now=now())
    assert "pi_" in ProviderEvent.objects.get(pk=early["id"]).error
    hear(double)
    assert left(account) == 0
    assert events.handle(early["id"], now=now() + DAY)
    payment = Payment.objects.for_org(account.organization_id).get()
    assert (payment.status, left(account)) == ("disputed", 0)


def test_a_dispute_of_somebody_elses_payment_is_none_of_ours(
    double: Double, account: Account
) -> None:
    bought(double, account, DISPUTED)
    Payment.objects.for_org(account.organization_id).delete()
    [intent] = double.of("payment_intent")
    intent["customer"] = None
    early = next(each for each in double.state.events if "dispute" in each["type"])
    assert events.handle(receive(double, early), now=now())
