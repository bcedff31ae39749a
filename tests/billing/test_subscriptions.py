"""Plans: begun, changed, renewed and ended, each fee charged once."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import DatabaseError, OperationalError, connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from billing import credit, merkle, proof, subscriptions
from billing.allowances import Grant
from billing.anniversaries import anniversary
from billing.invoicing import MonthClosed, preview
from billing.merkle import Disproved
from billing.models import Account, Invoice, LedgerEntry
from billing.offers import PlanTerms, Spell, Subscription
from billing.subscriptions import NoSubscription, State
from kit import money
from kit.errors import Invalid
from kit.money import NANOS
from tenants import organizations
from tenants.audit import Actor
from tenants.auth import Suspended
from tenants.models import AuditEntry, Plan
from tests import factories
from tests.billing import rows
from tests.billing.rows import entry
from tests.billing.test_invoicing import close
from tests.billing.test_ledger import DECEMBER, NOVEMBER, booked

BY = Actor("user:alice")
START = datetime(2026, 11, 16, 12, tzinfo=UTC)
HALF = datetime(2026, 12, 1, 12, tzinfo=UTC)
NEXT = datetime(2026, 12, 16, 12, tzinfo=UTC)


@given(
    anchor=st.datetimes(datetime(2020, 1, 1), datetime(2032, 1, 1)),  # noqa: DTZ001
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia"]),
    months=st.integers(0, 40),
)
def test_anniversaries_keep_the_day_and_the_hour_and_never_go_back(
    anchor: datetime, zone: str, months: int
) -> None:
    begun = anchor.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    local = begun.astimezone(ZoneInfo(zone))
    found = anniversary(begun, months, zone)
    there = found.astimezone(ZoneInfo(zone))
    assert (there.year * 12 + there.month) - (local.year * 12 + local.month) == months
    assert there.day == local.day or (there.day < local.day and (there + timedelta(1)).day == 1)
    assert found < anniversary(begun, months + 1, zone)


def test_the_31st_is_the_months_last_day_and_the_31st_again() -> None:
    begun = datetime(2028, 1, 31, 9, tzinfo=UTC)
    days = [f"{anniversary(begun, n, 'UTC'):%m-%d}" for n in range(1, 5)]
    assert days == ["02-29", "03-31", "04-30", "05-31"]
    summer = anniversary(datetime(2026, 2, 28, 1, 30, tzinfo=UTC), 1, "Europe/Berlin")
    assert summer == datetime(2026, 3, 28, 1, 30, tzinfo=UTC)
    assert anniversary(summer, 1, "Europe/Berlin") == datetime(2026, 4, 28, 0, 30, tzinfo=UTC)


def terms(name: str, **fields: Any) -> PlanTerms:
    plan, _ = Plan.objects.get_or_create(name=name)
    since = datetime(2020, 1, 1, tzinfo=UTC)
    given = {"currency": "EUR", "effective_from": since, **fields}
    return PlanTerms.objects.create(plan=plan, **given)


@pytest.fixture
def plans(db: None, redis: Redis) -> None:
    """Four, as data."""
    terms("Free", allowance=NANOS)
    terms("Pay as you go")
    terms("Team", fee=30 * NANOS, seat_fee=10 * NANOS, included_seats=2, allowance=5 * NANOS)
    terms("Enterprise", fee=300 * NANOS, minimum=100 * NANOS, self_service=False)


@pytest.fixture
def account(plans: None) -> Account:
    """Acme's."""
    return rows.account("acme")


def choose(account: Account, plan: str, at: datetime = START, **how: Any) -> Subscription:
    return subscriptions.choose(
        organization=account.organization_id, plan=plan, now=at, by=BY, **how
    )


def renew(account: Account, at: datetime) -> None:
    subscriptions.renew(organization=account.organization_id, now=at)


def fees(account: Account) -> list[tuple[str, str, int]]:
    """Month, meter and nanos of every fee."""
    found = LedgerEntry.objects.for_org(account.organization_id).filter(kind="plan")
    return [
        (f"{row.month:%m}", meter, nanos)
        for row in found.order_by("created_at", "-amount")
        for meter, nanos in row.amounts.items()
    ]


def row_of(account: Account) -> Subscription:
    return Subscription.objects.for_org(account.organization_id).get()


def test_a_plan_is_charged_as_it_begins_and_at_each_anniversary(account: Account) -> None:
    choose(account, "team", seats=3)
    account.organization.refresh_from_db()
    assert account.organization.plan == Plan.objects.get(name="Team")
    for at in (START, NEXT - timedelta(seconds=1), NEXT, NEXT, NEXT + timedelta(days=31)):
        renew(account, at)
    assert fees(account) == [
        (month, *fee)
        for month in ("11", "12", "01")
        for fee in (("plan_fee", 30 * NANOS), ("seats", 10 * NANOS))
    ]
    grants = Grant.objects.for_org(account.organization_id).order_by("pk")
    assert [(each.amount, each.expires_at) for each in grants][:2] == [
        (5 * NANOS, NEXT),
        (5 * NANOS, NEXT + timedelta(days=31)),
    ]
    told = AuditEntry.objects.for_org(account.organization_id)
    assert told.filter(action="subscription.changed", actor="user:alice").count() == 1


def test_what_costs_more_holds_at_once_and_what_costs_less_from_the_next_period(
    account: Account,
) -> None:
    choose(account, "Team", seats=2)
    quoted = subscriptions.quote(
        organization=account.organization_id, plan="Team", seats=4, now=HALF
    )
    assert (quoted.at_once, quoted.due_now, quoted.cost) == (True, 10 * NANOS, 50 * NANOS)
    choose(account, "Team", HALF, seats=4)
    assert fees(account)[1:] == [("12", "proration", 25 * NANOS), ("12", "proration", -15 * NANOS)]
    choose(account, "Pay as you go", HALF)
    found = row_of(account)
    assert (found.plan.name, found.next_plan) == ("Team", Plan.objects.get(name="Pay as you go"))
    renew(account, NEXT)
    assert row_of(account).plan.name == "Pay as you go"
    assert len(fees(account)) == 3
    assert Spell.objects.for_org(account.organization_id).count() == 2


def test_choosing_what_there_is_takes_a_cancellation_back(account: Account) -> None:
    choose(account, "Team")
    subscriptions.cancel(organization=account.organization_id, now=HALF, by=BY)
    assert row_of(account).cancel_at_end
    choose(account, "Team", HALF)
    assert not row_of(account).cancel_at_end
    subscriptions.cancel(organization=account.organization_id, now=HALF, by=BY)
    renew(account, NEXT)
    account.organization.refresh_from_db()
    assert (row_of(account).state, account.organization.plan) == (State.ENDED, None)
    assert len(fees(account)) == 1
    with pytest.raises(NoSubscription):
        subscriptions.cancel(organization=account.organization_id, now=NEXT, by=BY)


def test_a_trial_is_free_comes_once_and_then_the_plan_is_paid(account: Account) -> None:
    terms("Trial", fee=10 * NANOS, trial_days=14)
    assert choose(account, "Trial").state == State.TRIALING
    end = START + timedelta(days=14)
    renew(account, end)
    assert fees(account) == [("11", "plan_fee", 10 * NANOS)]
    assert row_of(account).period_start == end
    subscriptions.cancel(organization=account.organization_id, now=end, by=BY)
    renew(account, NEXT + timedelta(days=20))
    assert choose(account, "Trial", NEXT + timedelta(days=20)).state == State.ACTIVE


def allowed(account: Account) -> list[int]:
    """What plans have granted, in their order."""
    grants = Grant.objects.for_org(account.organization_id).filter(kind="plan")
    return list(grants.order_by("pk").values_list("amount", flat=True))


def test_changing_to_and_fro_in_a_trial_gives_no_more_than_the_larger_plan_allows(
    account: Account,
) -> None:
    terms("Tried", fee=30 * NANOS, allowance=20 * NANOS, trial_days=14)
    choose(account, "Tried")
    for turn in range(6):
        choose(account, ("Free", "Tried")[turn % 2], START + timedelta(days=2 * turn + 1))
    assert allowed(account) == [20 * NANOS]


def test_what_a_plan_allows_is_prorated_as_its_fee_is(account: Account) -> None:
    choose(account, "Free")
    choose(account, "Team", HALF)
    assert allowed(account) == [NANOS, (5 - 1) * NANOS // 2]
    other = rows.account("globex")
    choose(other, "Free")
    choose(other, "Team", NEXT - timedelta(minutes=1))
    assert len(fees(other)) == 1
    assert sum(allowed(other)) < NANOS + NANOS // 1000


def test_who_joins_has_a_seat_from_then_on(account: Account) -> None:
    choose(account, "Team", seats=2)
    for name in ("alice", "bob", "charlie"):
        factories.member(factories.user(name), account.organization)
    assert subscriptions.watch(now=HALF) == 1
    assert subscriptions.watch(now=HALF) == 0
    assert sum(nanos for _, _, nanos in fees(account)[1:]) == 5 * NANOS
    with pytest.raises(Invalid, match="seats"):
        choose(account, "Team", HALF, seats=2)


def test_a_suspended_plan_charges_nothing_until_it_is_reinstated(account: Account) -> None:
    terms("Least", fee=NANOS, minimum=100 * NANOS, allowance=NANOS)
    organization = account.organization
    choose(account, "Least")
    organizations.suspend(organization, now=HALF)
    for at in (NEXT, NEXT + timedelta(days=40)):
        renew(account, at)
    for name in ("alice", "bob"):
        factories.member(factories.user(name), organization)
    assert subscriptions.watch(now=NEXT + timedelta(days=40)) == 1
    with pytest.raises(Suspended):
        choose(account, "Team", NEXT + timedelta(days=40))
    assert (len(fees(account)), len(allowed(account))) == (1, 1)
    january, back = DECEMBER.replace(2027, 1), datetime(2027, 2, 10, 9, tzinfo=UTC)
    organizations.reinstate(organization, now=back)
    assert close(account, january, back).subtotal == 0
    renew(account, back)
    row = row_of(account)
    assert (row.period_start, row.period_end) == (back, back.replace(month=3))
    assert fees(account)[1:] == [("02", "plan_fee", NANOS)]
    assert len(allowed(account)) == 2
    renew(account, back.replace(month=3))
    assert fees(account)[2:] == [("03", "plan_fee", NANOS)]


def test_what_began_before_a_suspension_is_charged_though_renewed_later(account: Account) -> None:
    choose(account, "Team")
    organizations.suspend(account.organization, now=NEXT + timedelta(seconds=1))
    renew(account, NEXT + timedelta(days=50))
    assert [month for month, _, _ in fees(account)] == ["11", "12"]


def test_a_plan_cancelled_while_it_is_paused_ends(account: Account) -> None:
    choose(account, "Team")
    organizations.suspend(account.organization, now=HALF)
    renew(account, NEXT)
    subscriptions.cancel(organization=account.organization_id, now=NEXT, by=BY)
    organizations.reinstate(account.organization, now=NEXT)
    renew(account, NEXT)
    assert (row_of(account).state, len(fees(account))) == (State.ENDED, 1)


def test_another_time_zone_holds_from_the_next_period_on(account: Account) -> None:
    choose(account, "Team")
    choose(account, "Team", HALF, zone="America/New_York")
    assert (row_of(account).zone, row_of(account).period_end) == ("America/New_York", NEXT)
    renew(account, datetime(2027, 2, 17, tzinfo=UTC))
    assert row_of(account).period_end == datetime(2027, 3, 16, 11, tzinfo=UTC)


@pytest.mark.parametrize(
    ("plan", "how", "why"),
    [
        ("Platinum", {}, "none that can be chosen"),
        ("Enterprise", {}, "none that can be chosen"),
        ("Team", {"seats": 0}, "seats: 0"),
        ("Team", {"seats": 10**6}, "seats: 1,000,000"),
        ("Team", {"zone": "Europe/Nowhere"}, "timezone"),
    ],
)
def test_what_is_no_choice_is_refused(account: Account, plan: str, how: Any, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        choose(account, plan, **how)
    assert fees(account) == []


def test_the_counters_learn_of_fees_and_allowances(
    account: Account, django_capture_on_commit_callbacks: Any
) -> None:
    credit.rebuild(account.organization_id)
    with django_capture_on_commit_callbacks(execute=True):
        choose(account, "Team")
    found = credit.counters(account.organization_id)
    assert found is not None
    assert (found.limit, found.spent) == (105 * NANOS, 30 * NANOS)


def test_a_whole_month_on_a_plan_comes_to_its_minimum(account: Account) -> None:
    choose(account, "Enterprise", operator=True)
    booked(entry(account.organization_id))
    assert close(account).subtotal == 300 * NANOS + 4_500
    after = datetime(2027, 1, 1, 0, 5, tzinfo=UTC)
    invoice = close(account, DECEMBER, after)
    assert invoice.subtotal == 400 * NANOS
    lines = {(line.kind, line.meter): line.nanos for line in invoice.lines.all()}
    assert lines == {("minimum", "minimum"): 100 * NANOS, ("plan", "plan_fee"): 300 * NANOS}


def test_closing_charges_what_began_in_the_month_though_nobody_renewed(account: Account) -> None:
    choose(account, "Team", datetime(2026, 10, 31, 12, tzinfo=UTC))
    invoice = close(account, now=datetime(2026, 12, 5, tzinfo=UTC))
    assert [line.meter for line in invoice.lines.all()] == ["plan_fee"]
    assert fees(account) == [("10", "plan_fee", 30 * NANOS), ("11", "plan_fee", 30 * NANOS)]


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_changes_come_to_what_was_had_by_the_second(
    account: Account, data: st.DataObject
) -> None:
    """The fees of a period are the integral of its cost over time, but for rounding each row."""
    whole = (NEXT - START) // timedelta(seconds=1)
    moments = sorted(data.draw(st.sets(st.integers(1, whole - 1), max_size=5)))
    with transaction.atomic():
        choose(account, "Team", seats=2)
        seats, exact, since = 2, 0, 0
        for moment in moments:
            exact += row_of(account).terms.cost(seats) * (moment - since)
            since = moment
            wanted = data.draw(st.integers(2, 40))
            choose(account, "Team", START + timedelta(seconds=moment), seats=wanted)
            seats = row_of(account).seats
            assert seats == max(wanted, seats)
        exact += row_of(account).terms.cost(seats) * (whole - since)
        charged = sum(nanos for _, _, nanos in fees(account))
        transaction.set_rollback(True)
    assert abs(charged - money.share(exact, 1, whole)) <= 2 * len(moments) + 1


@pytest.mark.parametrize(("currency", "scale"), [("EUR", 2), ("JPY", 0), ("KWD", 3)])
def test_a_whole_month_in_any_currency(db: None, redis: Redis, currency: str, scale: int) -> None:
    terms("Team", currency=currency, fee=29_990_000_000, seat_fee=7_777_777_777)
    steps = [[0, 0], [1_000, 333_333_333], [5_000, 111_111_111]]
    price = rows.price(
        "wide",
        currency=currency,
        rates={"input_tokens": 333_333_333},
        tiers={"input_tokens": {"mode": "graduated", "steps": steps}},
    )
    account = rows.account("acme", currency=currency)
    choose(account, "Team", START, seats=3)
    choose(account, "Team", START + timedelta(days=7, seconds=1), seats=5)
    units = {"input_tokens": 9_999}
    amounts = {"input_tokens": money.amount(9_999, 333_333_333)}
    booked(
        *(
            entry(
                account.organization_id,
                model="wide",
                currency=currency,
                units=units,
                amounts=amounts,
                price_version=price.pk,
                project=project,
            )
            for project in ("a", "b")
        )
    )
    invoice = close(account)
    lines = list(invoice.lines.all())
    assert {line.kind for line in lines} == {"use", "tier", "plan"}
    assert sum(line.nanos for line in lines) == invoice.subtotal
    assert sum(line.minor for line in lines) == invoice.total_minor
    unit = 10 ** (9 - scale)
    assert abs(invoice.total_minor * unit - invoice.subtotal) * 2 <= unit


def _interrupted(account: Account, after: int) -> bool:
    """Close November, dying before the statement number `after`; whether it came so far."""
    count = 0

    def execute(run: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal count
        count += 1
        if count > after:
            raise OperationalError("killed")
        return run(sql, params, many, context)

    try:
        with transaction.atomic(), connection.execute_wrapper(execute):
            close(account)
    except OperationalError:
        return True
    return False


def test_a_month_with_fees_tiers_and_a_minimum_is_closed_once_wherever_it_is_killed(
    account: Account,
) -> None:
    price = rows.price(
        "wide", tiers={"input_tokens": {"mode": "graduated", "steps": [[0, 0], [5, 10_000]]}}
    )
    choose(account, "Team", datetime(2026, 10, 20, tzinfo=UTC))
    choose(account, "Enterprise", datetime(2026, 10, 25, tzinfo=UTC), operator=True)
    booked(entry(account.organization_id, model="wide", price_version=price.pk))
    expected = preview(organization=account.organization_id, month=NOVEMBER, now=START)
    at = 0
    while _interrupted(account, at):
        assert not Invoice.objects.for_org(account.organization_id).exists()
        at += 1
    assert at > 20
    invoice = Invoice.objects.for_org(account.organization_id).get()
    kinds = [line.kind for line in invoice.lines.all()]
    assert sorted(set(kinds)) == ["minimum", "plan", "tier", "use"]
    assert invoice.subtotal == expected.subtotal + 300 * NANOS
    lines = b"".join(proof.whole(invoice)).splitlines()
    assert merkle.check(lines, invoice.merkle_root)["minimum_nanos"]
    with pytest.raises(Disproved, match="the minimum"):
        merkle.check(
            [lines[0].replace(b'"minimum_nanos":', b'"minimum_nanos":1'), *lines[1:]],
            invoice.merkle_root,
        )
    with pytest.raises(MonthClosed):
        close(account)


def test_terms_that_are_in_force_stand(account: Account) -> None:
    with pytest.raises(DatabaseError), transaction.atomic():
        PlanTerms.objects.filter(plan__name="Team").update(fee=1)
