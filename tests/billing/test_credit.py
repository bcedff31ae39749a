"""The credit counters, against a plain model of them and against the ledger."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import pytest
from django.db import connection, transaction
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from redis import Redis

from billing import credit, ledger
from billing.credit import (
    BudgetReserved,
    CreditMissing,
    CreditReserved,
    NoAccount,
    OutOfCredit,
    OverBudget,
)
from billing.models import Account, Invoice, LedgerEntry
from kit.ids import first_id, request_id
from kit.money import NANOS
from kit.redis import pipeline, state
from tests.billing.beside import on_its_own_connection, wait_until_somebody_waits_for_a_lock
from tests.billing.rows import NOW, entry

ACME = 7


def fresh() -> UUID:
    """The id of a request made just now; holds of old ones are swept."""
    return request_id(datetime.now(UTC))


def reserve(
    request: UUID,
    amount: int,
    *,
    organization: int = ACME,
    ticket: str = "limits",
    key: str = "",
    project: str = "",
) -> Any:
    """The script's reply, after limits have let the request pass."""
    name = f"ticket:{request}"
    state().set(name, ticket, px=10_000)

    def build(pipe: Any) -> None:
        credit.reserve(
            pipe,
            ticket=name,
            organization=organization,
            request=request,
            amount=amount,
            currency="EUR",
            key=key,
            project=project,
        )

    return pipeline(build)[0]


def settle(request: UUID, amount: int, *, epoch: int, organization: int = ACME) -> Any:
    """The script's reply."""

    def build(pipe: Any) -> None:
        credit.settle(pipe, organization=organization, request=request, amount=amount, epoch=epoch)

    return pipeline(build)[0]


def release(request: UUID, *, organization: int = ACME) -> None:
    pipeline(lambda pipe: credit.release(pipe, organization=organization, request=request))


def held_since(request: UUID, *, hours: int) -> None:
    """Its hold is that old."""
    held = credit._keys(ACME)[1]
    hold = cast("bytes", state().hget(held, str(request)))
    amount, key, project, since = hold.split(b"|")
    before = b"%d" % (int(since) - hours * 3_600_000)
    state().hset(held, str(request), b"|".join([amount, key, project, before]))


def load(
    *,
    limit: int,
    spent: int = 0,
    epoch: int = 1,
    confirm: bool = True,
    until: int | str = "",
    budgets: Sequence[str | int] = (),
) -> None:
    """Counters as a rebuild leaves them."""
    credit._load(credit._keys(ACME), [limit, spent, epoch, "EUR", until, *budgets])
    if confirm:
        credit._confirm(credit._keys(ACME)[:1], [epoch])


def counters(organization: int = ACME) -> dict[str, int]:
    """spent, reserved and the rest, as numbers."""
    found: dict[bytes, bytes] = state().hgetall(f"credit:{organization}")  # type: ignore[assignment]
    return {key.decode(): int(value) for key, value in found.items() if key != b"currency"}


def budget_counters() -> Mapping[int, tuple[int, int]]:
    """What each budget has spent and held, by its number."""
    found = credit.counters(ACME)
    assert found is not None
    return found.budgets


@dataclass
class Booking:
    """A row of the model's ledger."""

    request: UUID
    amount: int
    epoch: int
    key: str


KEYS = ("a", "b")
ANY = st.integers(0, 99)
SMALL = st.integers(0, 12)


class Counters(RuleBasedStateMachine):
    """Reservations, bookings, settlements, repeats, crashes, rebuilds and flushes in any order.

    The model is the ledger, and who holds what. Neither the credit nor a hard budget, of the
    organization or of one of its keys, is ever overspent; a refusal 402 is right.
    """

    @initialize(limit=st.integers(0, 200), most=st.integers(0, 100), of_key=st.integers(0, 60))
    def begin(self, limit: int, most: int, of_key: int) -> None:
        state().flushdb()
        self.budgets = {1: ("o:", most), 2: ("k:a", of_key)}
        self.keys: dict[UUID, str] = {}
        self.first, self.made = first_id(datetime.now(UTC)), 0
        self.limit = limit
        self.epoch = 0
        self.held: dict[UUID, int] = {}
        self.ledger: list[Booking] = []
        self.unsettled: set[UUID] = set()
        self.reserved_in: dict[UUID, int] = {}
        self.lost: list[tuple[UUID, int]] = []
        self.open_rebuild = False
        self.rebuild()

    @precondition(lambda self: not self.open_rebuild)
    @rule()
    def rebuild(self) -> None:
        """Whole, as `credit.rebuild` does it."""
        self.load()
        self.commit(confirm=True)

    @property
    def owed(self) -> int:
        return sum(booking.amount for booking in self.ledger)

    def counts(self, budget: int, request: UUID) -> bool:
        """Whether the budget counts the request."""
        return budget == 1 or self.keys[request] == "a"

    def spent(self, budget: int) -> int:
        return sum(each.amount for each in self.ledger if self.counts(budget, each.request))

    def held_of(self, budget: int, requests: Iterable[UUID]) -> int:
        return sum(self.held[each] for each in requests if self.counts(budget, each))

    @property
    def running(self) -> list[UUID]:
        """Who holds credit and is not in the ledger."""
        booked = {booking.request for booking in self.ledger}
        return sorted(self.held.keys() - booked)

    @rule(amount=SMALL, key=st.sampled_from(KEYS))
    def reserve(self, amount: int, key: str) -> None:
        self.made += 1
        request = UUID(int=self.first.int + self.made)
        self.keys[request] = key
        reply = reserve(request, amount, key=key)
        if reply[0] == b"missing":
            found = counters()
            assert not found or "pending" in found
            if self.open_rebuild:
                return
            self.rebuild()
            reply = reserve(request, amount, key=key)
        if reply[0] == b"ok":
            assert "pending" not in counters()
            self.held[request] = amount
            self.reserved_in[request] = self.epoch
            assert state().get(f"ticket:{request}") == f"credit:{self.epoch}".encode()
            return
        assert amount > 0
        if reply[0] in (b"over", b"crowded"):
            _, _, spent, most, _, name = reply
            budget = next(each for each in self.budgets if self.budgets[each][0] == name.decode())
            assert self.counts(budget, request)
            assert int(most) == self.budgets[budget][1]
            assert int(spent) + self.held_of(budget, self.held) + amount > int(most)
            assert (reply[0] == b"over") == (int(spent) + amount > int(most))
            return
        spent = counters()["spent"]
        assert spent + sum(self.held.values()) + amount > self.limit
        assert (reply[0] == b"insufficient") == (spent + amount > self.limit)

    @precondition(lambda self: self.held)
    @rule(which=ANY)
    def reserve_again(self, which: int) -> None:
        request, amount = sorted(self.held.items())[which % len(self.held)]
        assert reserve(request, amount, key=self.keys[request]) == [b"ok"]

    @precondition(lambda self: self.running)
    @rule(which=ANY)
    def let_go(self, which: int) -> None:
        request = self.running[which % len(self.running)]
        release(request)
        release(request)
        del self.held[request]

    @precondition(lambda self: self.running and not self.open_rebuild)
    @rule(which=ANY, saved=SMALL, at_once=st.booleans())
    def book(self, which: int, saved: int, at_once: bool) -> None:
        request = self.running[which % len(self.running)]
        booking = Booking(
            request, max(0, self.held[request] - saved), self.epoch, self.keys[request]
        )
        self.ledger.append(booking)
        self.unsettled.add(request)
        if at_once:
            self._settle(booking)

    @precondition(lambda self: self.ledger)
    @rule(which=ANY)
    def settle_perhaps_again(self, which: int) -> None:
        self._settle(self.ledger[which % len(self.ledger)])

    def _settle(self, booking: Booking) -> None:
        settle(booking.request, booking.amount, epoch=booking.epoch)
        self.held.pop(booking.request, None)
        self.unsettled.discard(booking.request)

    @precondition(lambda self: not self.open_rebuild)
    @rule()
    def load(self) -> None:
        """The account is locked: nobody books until it is committed."""
        budgets: list[str | int] = []
        for budget, (subject, most) in self.budgets.items():
            budgets += [budget, subject, most, self.spent(budget), 1, subject]
        load(
            limit=self.limit,
            spent=self.owed,
            epoch=self.epoch + 1,
            confirm=False,
            budgets=budgets,
        )
        self.open_rebuild = True

    @precondition(lambda self: self.open_rebuild)
    @rule(confirm=st.booleans())
    def commit(self, confirm: bool) -> None:
        self.epoch += 1
        self.open_rebuild = False
        if confirm:
            credit._confirm(credit._keys(ACME)[:1], [self.epoch])

    @precondition(lambda self: self.open_rebuild)
    @rule()
    def die_before_the_commit(self) -> None:
        self.open_rebuild = False

    @rule()
    def flush(self) -> None:
        """Requests that are not sealed yet fail free."""
        self.lost += [(request, self.held[request]) for request in self.running]
        state().flushdb()
        self.held.clear()

    @precondition(lambda self: self.lost and not self.open_rebuild)
    @rule()
    def book_what_was_sealed_before_the_flush(self) -> None:
        """Its finisher held the seal in its hands: held again, as far as credit goes, or free."""
        request, amount = self.lost.pop()
        if self.reserved_in[request] < self.epoch and amount:
            need = credit.Hold(ACME, request, amount, self.epoch, self.keys[request])
            word = credit.hold_again([need])[request]
            if word == "taken":
                self.held[request] = amount
            else:
                amount = 0
        self.ledger.append(Booking(request, amount, self.epoch, self.keys[request]))
        self.unsettled.add(request)

    @invariant()
    def nothing_is_overspent(self) -> None:
        assert self.owed + sum(self.held[request] for request in self.running) <= self.limit
        for budget, (_, most) in self.budgets.items():
            assert self.spent(budget) + self.held_of(budget, self.running) <= most

    @invariant()
    def what_is_spent_is_what_the_ledger_says(self) -> None:
        found = counters()
        if found and not self.open_rebuild:
            awaited = [each for each in self.ledger if each.request in self.unsettled]
            to_come = sum(each.amount for each in awaited if each.epoch >= found["epoch"])
            assert "pending" in found or found["spent"] + to_come == self.owed
            for budget in self.budgets if "pending" not in found else ():
                to_come = sum(
                    each.amount
                    for each in awaited
                    if each.epoch >= found["epoch"] and self.counts(budget, each.request)
                )
                spent, reserved = budget_counters()[budget]
                assert spent + to_come == self.spent(budget)
                assert reserved == self.held_of(budget, self.held)
        if found:
            assert found["reserved"] == sum(self.held.values())


@pytest.mark.usefixtures("redis")
class TestCounters(Counters.TestCase):  # type: ignore[misc,valid-type]
    """Run by pytest."""

    settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


@pytest.mark.usefixtures("redis")
class TestScripts:
    """One script at a time."""

    def test_a_request_that_limits_refused_holds_nothing(self) -> None:
        load(limit=10)
        assert reserve(fresh(), 1, ticket="refused") == [b"skipped"]
        assert counters()["reserved"] == 0
        credit.reserved([b"skipped"])

    def test_the_ticket_goes_on_to_the_next_room(self) -> None:
        load(limit=10)
        request = fresh()
        assert reserve(request, 10) == [b"ok"]
        assert state().get(f"ticket:{request}") == b"credit:1"
        assert reserve(fresh(), 1)[0] == b"reserved"

    def test_what_credit_cannot_pay_is_refused_402_with_what_is_left(self) -> None:
        load(limit=3 * NANOS, spent=NANOS)
        reply = reserve(fresh(), 2 * NANOS + 1)
        with pytest.raises(OutOfCredit, match=r"EUR 2\.000000001.*EUR 3\.00 only EUR 2\.00"):
            credit.reserved(reply)

    def test_what_others_hold_is_refused_429(self) -> None:
        load(limit=3 * NANOS)
        reserve(fresh(), 2 * NANOS)
        with pytest.raises(CreditReserved) as caught:
            credit.reserved(reserve(fresh(), 2 * NANOS))
        assert caught.value.retry_after

    def test_a_free_request_passes_whatever_is_owed(self) -> None:
        load(limit=1, spent=5)
        assert reserve(fresh(), 0) == [b"ok"]

    def test_large_amounts_stay_exact(self) -> None:
        load(limit=2**53 - 1, spent=2**53 - 4)
        first = fresh()
        assert reserve(first, 3) == [b"ok"]
        assert reserve(fresh(), 1)[0] == b"reserved"
        settle(first, 3, epoch=1)
        assert counters()["spent"] == 2**53 - 1
        load(limit=2**53 - 1, spent=2**53 - 1, epoch=2)
        assert reserve(fresh(), 1)[0] == b"insufficient"

    def test_missing_counters_ask_for_a_rebuild(self) -> None:
        with pytest.raises(CreditMissing):
            credit.reserved(reserve(fresh(), 1))
        load(limit=5, confirm=False)
        with pytest.raises(CreditMissing):
            credit.reserved(reserve(fresh(), 1))

    def test_a_hold_that_a_crash_left_is_swept_when_it_stands_in_the_way(self) -> None:
        load(limit=5)
        first, second = fresh(), fresh()
        reserve(first, 4, project="site")
        reserve(second, 1)
        held_since(first, hours=7)
        held_since(second, hours=5)
        assert reserve(fresh(), 4) == [b"ok"]
        assert reserve(fresh(), 1)[0] == b"reserved"

    def test_a_hold_is_as_old_as_its_admission_however_old_its_id_is(self) -> None:
        load(limit=5)
        tied = request_id(datetime.now(UTC) - timedelta(hours=7))
        assert reserve(tied, 5) == [b"ok"]
        assert reserve(fresh(), 1)[0] == b"reserved"
        held_since(tied, hours=7)
        assert reserve(tied, 5) == [b"ok"], "its admission died, and is repeated"
        state().hdel(credit._keys(ACME)[0], "swept")
        assert reserve(fresh(), 1)[0] == b"reserved"
        settle(tied, 5, epoch=1)
        assert (counters()["spent"], counters()["reserved"]) == (5, 0)

    def test_a_hold_without_its_time_is_as_old_as_its_id(self) -> None:
        load(limit=5)
        before = request_id(datetime.now(UTC) - timedelta(hours=7))
        reserve(before, 5)
        state().hset(credit._keys(ACME)[1], str(before), "5|key|site")
        assert reserve(fresh(), 5) == [b"ok"]

    def test_a_hard_budget_refuses_402_with_what_is_left_and_a_soft_one_does_not(self) -> None:
        load(
            limit=100 * NANOS,
            budgets=[
                *(1, "p:site", 3 * NANOS, NANOS, 1, "project site"),
                *(2, "k:soft", 0, 0, 0, "key soft"),
            ],
        )
        with pytest.raises(OverBudget, match=r"EUR 3\.00 \(project site\) only EUR 2\.00 is left"):
            credit.reserved(reserve(fresh(), 2 * NANOS + 1, project="site"))
        assert reserve(fresh(), 2 * NANOS, key="soft", project="site") == [b"ok"]
        with pytest.raises(BudgetReserved, match="Try again"):
            credit.reserved(reserve(fresh(), 1, project="site"))
        assert reserve(fresh(), 90 * NANOS, project="other") == [b"ok"]

    def test_figures_whose_time_is_over_ask_for_a_rebuild(self) -> None:
        load(limit=10, until=int(datetime.now(UTC).timestamp() * 1000) + 60_000)
        assert reserve(fresh(), 1) == [b"ok"]
        load(limit=10, until=int(datetime.now(UTC).timestamp() * 1000) - 1, epoch=2)
        with pytest.raises(CreditMissing):
            credit.reserved(reserve(fresh(), 1))

    def test_exactly_as_many_as_the_credit_pays_for_get_in_at_once(self) -> None:
        load(limit=50)
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda _: reserve(fresh(), 1), range(120)))
        assert sum(reply == [b"ok"] for reply in replies) == 50
        assert counters()["reserved"] == 50


@pytest.fixture
def organization(account: Account, redis: Redis) -> int:
    """Acme's key, its counters in place."""
    credit.rebuild(account.organization_id)
    return account.organization_id


def book(organization: int, **fields: Any) -> ledger.Booked:
    """One row, and where it stands."""
    row = entry(organization, **fields)
    with transaction.atomic():
        return ledger.book([row], now=NOW)[row.request]


def test_a_rebuild_counts_the_ledger_and_keeps_holds(organization: int) -> None:
    reserve(fresh(), 12, organization=organization)
    book(organization)
    credit.renew(organization)
    found = counters(organization)
    assert (found["spent"], found["reserved"], found["epoch"]) == (4_500, 12, 2)
    assert "pending" not in found


def test_counters_that_are_there_are_left_alone(organization: int) -> None:
    credit.rebuild(organization)
    assert counters(organization)["epoch"] == 1


@pytest.mark.parametrize("settled_first", [True, False])
def test_a_row_is_counted_once_on_either_side_of_a_rebuild(
    organization: int, settled_first: bool
) -> None:
    request = fresh()
    reserve(request, 9_000, organization=organization)
    epoch = book(organization, request=request).epoch
    steps: list[Callable[[], Any]] = [
        lambda: settle(request, 4_500, epoch=epoch, organization=organization),
        lambda: credit.renew(organization),
    ]
    for step in steps if settled_first else reversed(steps):
        step()
    found = counters(organization)
    assert (found["spent"], found["reserved"]) == (4_500, 0)


def test_a_row_booked_again_after_a_rebuild_keeps_its_epoch(organization: int) -> None:
    request = fresh()
    reserve(request, 9_000, organization=organization)
    first = book(organization, request=request)
    credit.renew(organization)
    again = book(organization, request=request)
    assert again == first
    settle(request, 4_500, epoch=again.epoch, organization=organization)
    assert counters(organization)["spent"] == 4_500


def test_a_row_whose_hold_was_lost_with_redis_holds_again_and_is_counted(organization: int) -> None:
    request = fresh()
    reserve(request, 9_000, organization=organization)
    state().flushdb()
    credit.rebuild(organization)
    booked = book(organization, request=request, epoch=1)
    assert (booked.epoch, booked.state) == (2, "finished")
    assert counters(organization)["reserved"] == 4_500
    settle(request, 4_500, epoch=booked.epoch, organization=organization)
    found = counters(organization)
    assert (found["spent"], found["reserved"]) == (4_500, 0)


def test_what_lost_its_hold_to_others_is_free(organization: int) -> None:
    lost, other = fresh(), fresh()
    reserve(lost, 9_000, organization=organization)
    state().flushdb()
    credit.rebuild(organization)
    assert reserve(other, 100 * NANOS - 1, organization=organization) == [b"ok"]
    booked = book(organization, request=lost, epoch=1)
    row = LedgerEntry.objects.for_org(organization).get(request=lost)
    assert (booked.state, row.state, row.amount) == ("failed", "failed", 0)
    assert row.amounts == {"input_tokens": 0, "output_tokens": 0}
    assert row.units == {"input_tokens": 10, "output_tokens": 5}


def test_without_counters_an_old_reservation_is_free(organization: int) -> None:
    request = fresh()
    reserve(request, 9_000, organization=organization)
    credit.renew(organization)
    state().flushdb()
    assert book(organization, request=request, epoch=1).state == "failed"


def test_a_hold_that_outlived_a_renewal_pays(organization: int) -> None:
    request = fresh()
    reserve(request, 100 * NANOS, organization=organization)
    credit.renew(organization)
    assert book(organization, request=request, epoch=1).state == "finished"
    assert counters(organization)["reserved"] == 100 * NANOS


def test_a_row_that_stands_is_not_held_again(organization: int) -> None:
    request = fresh()
    reserve(request, 9_000, organization=organization)
    book(organization, request=request, epoch=1)
    state().flushdb()
    credit.rebuild(organization)
    booked = book(organization, request=request, epoch=1)
    assert (booked.epoch, booked.state) == (1, "finished")
    assert counters(organization)["reserved"] == 0


def test_a_hold_taken_for_what_somebody_else_has_booked_is_given_back(
    organization: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = fresh()
    reserve(request, 9_000, organization=organization)
    book(organization, request=request, epoch=1)
    state().flushdb()
    credit.rebuild(organization)
    earlier, looks = ledger._earlier, iter([False])
    monkeypatch.setattr(ledger, "_earlier", lambda some: earlier(some) if next(looks, True) else {})
    assert book(organization, request=request, epoch=1).epoch == 1
    assert counters(organization)["reserved"] == 0


@pytest.mark.parametrize(
    ("status", "owed"),
    [("open", 4_500), ("uncollectible", 4_500), ("paid", 0), ("void", 0)],
)
def test_what_a_settled_invoice_covers_is_owed_no_more(
    organization: int, status: str, owed: int
) -> None:
    book(organization)
    Invoice.objects.create(
        organization_id=organization,
        month=NOW.date().replace(day=1),
        currency="EUR",
        subtotal=4_500,
        total_minor=0,
        status=status,
        number="INV-2026-000001",
        closed_at=NOW,
    )
    assert credit.owed(organization) == owed


def test_a_new_limit_counts_at_once(organization: int, account: Account) -> None:
    account.refresh_from_db()
    account.credit_limit = 5
    account.save()
    credit.renew(organization)
    assert reserve(fresh(), 6, organization=organization)[0] == b"insufficient"


def test_without_an_account_nothing_is_sold(db: None, redis: Redis) -> None:
    with pytest.raises(NoAccount):
        credit.rebuild(10**9)


def test_a_rebuild_that_fails_leaves_nobody_reserving(
    organization: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise OSError

    monkeypatch.setattr(credit, "_confirm", broken)
    with pytest.raises(OSError):  # noqa: PT011
        credit.renew(organization)
    with pytest.raises(CreditMissing):
        credit.reserved(reserve(fresh(), 1, organization=organization))


@pytest.mark.django_db(transaction=True)
def test_of_many_rebuilds_at_once_one_does_the_work(redis: Redis, account: Account) -> None:
    def one(_: int) -> None:
        try:
            credit.rebuild(account.organization_id)
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(one, range(12)))
    account.refresh_from_db()
    assert counters(account.organization_id)["epoch"] == account.credit_epoch == 1
    assert "pending" not in counters(account.organization_id)


@pytest.mark.django_db(transaction=True)
def test_a_rebuild_waits_for_a_booking_under_way_and_counts_it(
    redis: Redis, account: Account
) -> None:
    mine = account.organization_id
    request = fresh()
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            epoch = book(mine, request=request).epoch
            rebuilding = pool.submit(on_its_own_connection(lambda: credit.rebuild(mine)))
            wait_until_somebody_waits_for_a_lock()
            assert counters(mine) == {}
        rebuilding.result()
    settle(request, 4_500, epoch=epoch, organization=mine)
    assert counters(mine)["spent"] == 4_500
