"""Grants, budgets, top-ups, alerts: what may be spent, and who hears of it."""

from datetime import UTC, datetime, time, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from analytics.reconciliation import Kind, reconcile
from billing import alerts, checkouts, credit, events, grants, renewals, topups
from billing.allowances import AutoTopUp, Budget, BudgetAlert, Grant, GrantUse
from billing.credit import OutOfCredit, OverBudget
from billing.models import Account, LedgerEntry
from billing.months import month_after, month_of
from billing.receivables import Mail, Payment
from kit.errors import Invalid
from kit.ids import request_id
from kit.money import NANOS
from tests import factories
from tests.billing.rows import entry
from tests.billing.test_credit import reserve, settle
from tests.billing.test_invoicing import close
from tests.billing.test_ledger import NOVEMBER, booked
from tests.billing.test_payments import DECLINED, GOOD, receive, save_card
from tests.stripe.payments import close_dispute, dispute
from tests.stripe.server import Double


@pytest.fixture(autouse=True)
def _redis(redis: Redis) -> None:
    """Empty."""


def now() -> datetime:
    return datetime.now(UTC)


def give(account: Account, amount: int, **how: Any) -> Grant:
    fields = {"reason": "welcome", "now": now(), **how}
    grant = grants.give(organization=account.organization_id, amount=amount, **fields)
    credit.renew(account.organization_id)
    return grant


def spend(account: Account, amount: int, **fields: Any) -> UUID:
    """A request from its reservation to its settlement."""
    request = request_id(fields.pop("at", now()))
    organization, key = account.organization_id, fields.get("key", "key000000000")
    reply = reserve(
        request,
        amount,
        organization=organization,
        key=key,
        project=fields.get("project", ""),
    )
    if reply[0] == b"missing":
        credit.rebuild(organization)
        return spend(account, amount, **fields)
    credit.reserved(reply)
    amounts = {"input_tokens": amount, "output_tokens": 0}
    row = entry(organization, request=request, amounts=amounts, **fields)
    found = booked(row, now=now())[request]
    settle(request, amount, epoch=found.epoch, organization=organization)
    return request


def figures(account: Account) -> tuple[int, int]:
    found = credit.counters(account.organization_id)
    assert found is not None
    return found.limit, found.spent


def differences(account: Account) -> tuple[Any, ...]:
    return tuple(
        each
        for each in reconcile(account.organization, month_of(now())).differences
        if each.kind != "history"
    )


def test_grants_pay_first_and_what_expires_first_goes_first(account: Account) -> None:
    late = give(account, 5 * NANOS, expires_at=now() + timedelta(days=9))
    soon = give(account, 2 * NANOS, expires_at=now() + timedelta(days=1))
    ever = give(account, 1 * NANOS)
    spend(account, 6 * NANOS)
    for grant, left in ((late, NANOS), (soon, 0), (ever, NANOS)):
        grant.refresh_from_db()
        assert grant.remaining == left
    assert credit.owed(account.organization_id) == 0
    spend(account, 5 * NANOS)
    assert credit.owed(account.organization_id) == 3 * NANOS
    assert figures(account) == (108 * NANOS, 11 * NANOS)
    assert differences(account) == ()


def test_prepaid_credit_alone_pays_to_its_last_nano_and_no_further(account: Account) -> None:
    Account.objects.for_org(account.organization_id).update(credit_limit=0)
    give(account, 10)
    for _ in range(10):
        spend(account, 1)
    with pytest.raises(OutOfCredit):
        spend(account, 1)
    assert credit.owed(account.organization_id) == 0


def test_a_grant_that_has_ended_is_no_credit_any_more(account: Account) -> None:
    Account.objects.for_org(account.organization_id).update(credit_limit=0)
    end = now() + timedelta(milliseconds=400)
    give(account, NANOS, expires_at=end)
    spend(account, 1)
    while now() <= end + timedelta(milliseconds=2):
        pass
    with pytest.raises(OutOfCredit):
        spend(account, 1)


def test_what_was_let_in_before_the_end_is_paid_after_it(account: Account) -> None:
    Account.objects.for_org(account.organization_id).update(credit_limit=0)
    give(account, NANOS)
    request, organization = request_id(now()), account.organization_id
    assert reserve(request, NANOS, organization=organization) == [b"ok"]
    Grant.objects.for_org(organization).update(expires_at=now() + timedelta(milliseconds=5))
    credit.renew(organization)
    amounts = {"input_tokens": NANOS, "output_tokens": 0}
    booked(entry(organization, request=request, amounts=amounts, epoch=1), now=now())
    assert credit.owed(organization) == 0


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    given=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 3)), max_size=4),
    costs=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), max_size=8),
)
def test_whatever_comes_together_grants_and_debt_are_the_ledger(
    account: Account, given: list[tuple[int, int]], costs: list[tuple[int, int]]
) -> None:
    """Grants that end on day d, requests of day d, booked in one batch: nothing is paid twice."""
    organization, start = account.organization_id, now()
    before = credit.owed(organization), _ledger(organization), grants.left(organization, now=start)
    made = [
        grants.give(
            organization=organization,
            amount=amount,
            reason="x",
            now=start - timedelta(days=1),
            expires_at=start + timedelta(days=days) if days else None,
        )
        for amount, days in given
    ]
    rows = [
        entry(
            organization,
            at=start + timedelta(days=days),
            amounts={"input_tokens": cost, "output_tokens": 0},
        )
        for cost, days in costs
    ]
    booked(*rows, *rows, now=start)
    uses = GrantUse.objects.for_org(organization)
    assert credit.owed(organization) + sum(use.amount for use in uses) == _ledger(organization)
    assert _ledger(organization) - before[1] == sum(cost for cost, _ in costs)
    for grant in made:
        grant.refresh_from_db()
        paid = sum(use.amount for use in uses if use.grant_id == grant.pk)
        assert grant.remaining + paid == grant.amount
        for use in uses.filter(grant=grant):
            assert grant.expires_at is None or grants.made_at(use.request) < grant.expires_at
    Grant.objects.for_org(organization).update(remaining=0)


def _ledger(organization: int) -> int:
    return sum(row.amount for row in LedgerEntry.objects.for_org(organization))


def test_an_invoice_takes_off_what_grants_have_paid(account: Account) -> None:
    give(account, 30 * NANOS)
    amounts = {"input_tokens": 60 * NANOS, "output_tokens": 40 * NANOS}
    booked(entry(account.organization_id, amounts=amounts))
    invoice = close(account)
    assert (invoice.subtotal, invoice.granted) == (100 * NANOS, 30 * NANOS)
    assert (invoice.total_minor, invoice.due_minor) == (7_000, 7_000)
    assert [(line.meter, line.minor) for line in invoice.lines.all()][-1] == ("grants", -3_000)
    assert credit.owed(account.organization_id) == 70 * NANOS
    report = reconcile(account.organization, NOVEMBER)
    assert [each for each in report.differences if each.kind == "invoice"] == []


def test_giving_twice_with_one_reference_gives_once(account: Account) -> None:
    for _ in range(3):
        give(account, 5, reference="pi_1")
    assert grants.left(account.organization_id, now=now()) == 5
    with pytest.raises(Invalid, match="nothing"):
        give(account, 0)
    with pytest.raises(Invalid, match="over"):
        give(account, 1, expires_at=now())


def budget(account: Account, scope: str, subject: str, amount: int, **fields: Any) -> Budget:
    row = Budget.objects.create(
        organization=account.organization, scope=scope, subject=subject, amount=amount, **fields
    )
    credit.renew(account.organization_id)
    return row


@pytest.mark.parametrize(
    ("scope", "subject"), [("organization", ""), ("project", "site"), ("key", "key000000000")]
)
def test_a_hard_budget_stops_its_own_alone(account: Account, scope: str, subject: str) -> None:
    budget(account, scope, subject, 10, hard=True)
    spend(account, 9, project="site")
    with pytest.raises(OverBudget, match=r"only EUR 0\.000000001 is left"):
        spend(account, 2, project="site")
    spend(account, 1, project="site")
    if scope != "organization":
        spend(account, 50, project="other", key="another")
    assert differences(account) == ()


def test_a_budget_counts_its_month_alone_and_what_was_spent_before_it(account: Account) -> None:
    booked(entry(account.organization_id, project="site"), now=datetime(2025, 1, 1, tzinfo=UTC))
    spend(account, 7, project="site")
    row = budget(account, "project", "site", 10, hard=True)
    found = credit.counters(account.organization_id)
    assert found is not None
    assert found.budgets == {row.pk: (7, 0)}


def test_each_threshold_is_told_of_once(account: Account) -> None:
    factories.member(factories.user("alice"), account.organization)
    row = budget(account, "project", "site", 100)
    for amount, subject in ((49, None), (1, "50 %"), (35, "80 %"), (0, None), (100, "100 %")):
        before = Mail.objects.for_org(account.organization_id).count()
        spend(account, amount, project="site")
        assert alerts.watch(now=now()) == (0 if subject is None else 1)
        told = Mail.objects.for_org(account.organization_id).order_by("pk")[before:]
        assert [mail.subject.split(" of")[0] for mail in told] == ([subject] if subject else [])
    found = BudgetAlert.objects.for_org(account.organization_id).filter(budget=row)
    assert sorted(found.values_list("percent", flat=True)) == [50, 80, 100]


def bought(double: Double, account: Account, card: str) -> None:
    """EUR 25 of credit, at Checkout."""
    wanted = checkouts.ask(
        organization=account.organization_id,
        kind="top_up",
        back="https://x.example",
        amount=25 * NANOS,
        now=now(),
    )
    checkouts.open_page(wanted.pk, now=wanted.created_at)
    wanted.refresh_from_db()
    double.give_card(str(wanted.remote), card)
    for _ in range(3):
        checkouts.complete(str(wanted.remote), now=now())


def test_a_top_up_at_checkout_is_credit_once(double: Double, account: Account) -> None:
    bought(double, account, GOOD)
    assert [each["amount"] for each in double.of("charge")] == [2_500]
    assert grants.left(account.organization_id, now=now()) == 25 * NANOS


def hear(double: Double) -> None:
    """Every webhook so far, twice."""
    for event in [*double.state.events, *double.state.events]:
        events.handle(receive(double, event), now=now())


@pytest.mark.parametrize(("outcome", "left", "owed"), [("won", 15, 0), ("lost", 0, 10)])
def test_a_top_up_that_is_disputed_stands_still_and_once_lost_is_taken_back(
    double: Double, account: Account, outcome: str, left: int, owed: int
) -> None:
    mine = account.organization_id
    factories.member(factories.user("alice"), account.organization)
    bought(double, account, GOOD)
    spend(account, 10 * NANOS)
    assert grants.left(mine, now=now()) == 15 * NANOS
    dispute(double.state, double.of("charge")[0])
    hear(double)
    assert grants.left(mine, now=now()) == 0
    assert credit.owed(mine) == 0
    close_dispute(double.state, double.of("dispute")[0], outcome)
    hear(double)
    assert grants.left(mine, now=now()) == left * NANOS
    assert credit.owed(mine) == owed * NANOS
    credit.renew(mine)
    found = reconcile(account.organization, month_of(now())).differences
    assert Kind.CREDIT not in {each.kind for each in found}
    later = month_after(month_of(now()))
    invoice = close(account, month_of(now()), datetime.combine(later, time(2), UTC))
    assert invoice.granted == (10 - owed) * NANOS


@pytest.mark.parametrize("fault", ["", "error", "error_after", "cut", "cut_after"])
def test_an_automatic_top_up_charges_once_whatever_breaks(
    double: Double, account: Account, fault: str
) -> None:
    save_card(double, account, GOOD, now())
    AutoTopUp.objects.create(
        organization=account.organization, below=50 * NANOS, amount_minor=6_000
    )
    assert topups.watch(now=now()) == 0
    spend(account, 60 * NANOS)
    if fault:
        double.fail(fault, "POST /v1/payment_intents")
    for minutes in (0, 6, 12, 18):
        topups.watch(now=now() + timedelta(minutes=minutes))
    assert [each["amount"] for each in double.of("charge")] == [6_000]
    assert grants.left(account.organization_id, now=now()) == 60 * NANOS


def test_an_automatic_top_up_that_is_declined_stops(double: Double, account: Account) -> None:
    factories.member(factories.user("alice"), account.organization)
    save_card(double, account, DECLINED, now())
    row = AutoTopUp.objects.create(
        organization=account.organization, below=500 * NANOS, amount_minor=6_000
    )
    for minutes in (0, 6, 12):
        topups.watch(now=now() + timedelta(minutes=minutes))
    row.refresh_from_db()
    assert "declined" in row.stopped
    assert [each["status"] for each in double.of("charge")] == ["failed"]
    assert Payment.objects.for_org(account.organization_id).get().status == "failed"
    assert Mail.objects.for_org(account.organization_id).get().subject.startswith("Your credit")


@pytest.mark.parametrize("of", ["budget", "credit"])
def test_what_refuses_for_want_of_money_is_told_of_once_though_a_rest_is_left(
    account: Account, of: str
) -> None:
    factories.member(factories.user("alice"), account.organization)
    if of == "budget":
        budget(account, "project", "site", 1_000, hard=True)
    else:
        Account.objects.for_org(account.organization_id).update(credit_limit=1_000)
        credit.renew(account.organization_id)
    spend(account, 100, project="site")
    with pytest.raises((OverBudget, OutOfCredit)):
        spend(account, 950, project="site")
    assert alerts.watch(now=now()) == 0, "one request was too large: hardly anything is spent"
    spend(account, 870, project="site")
    told = [alerts.watch(now=now())]
    for _ in range(3):
        with pytest.raises((OverBudget, OutOfCredit)):
            spend(account, 50, project="site")
        told.append(alerts.watch(now=now()))
    assert told == [1, 1, 0, 0]
    found = BudgetAlert.objects.for_org(account.organization_id)
    assert sorted(found.values_list("percent", flat=True)) == [80, 100]
    letter = Mail.objects.for_org(account.organization_id).latest("pk")
    assert "Requests can cost more than the EUR 0.00000003 that is left." in letter.text


def test_whoever_dies_after_a_commit_leaves_word_that_redis_has_to_learn(account: Account) -> None:
    """In this test's transaction nothing that waits for its commit is ever called."""
    spend(account, 1)
    before = figures(account)
    grants.give(organization=account.organization_id, amount=NANOS, reason="paid", now=now())
    assert figures(account) == before
    assert renewals.make_good(now=now()) == 0, "whoever noted it is given time"
    soon = now() + timedelta(minutes=1)
    assert renewals.make_good(now=soon) == 1
    assert figures(account) == (before[0] + NANOS, before[1])
    assert renewals.make_good(now=soon) == 0


def test_alerts_of_one_organization_that_fail_stop_no_others(
    account: Account, other: Account, redis: Redis
) -> None:
    budget(other, "project", "site", 100)
    spend(other, 50, project="site")
    spend(account, 1)
    redis.hset(f"credit:{account.organization_id}", "limit", "nonsense")
    assert alerts.watch(now=now()) == 1
