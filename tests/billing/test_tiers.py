"""Prices that fall with the quantity: monotone, additive, and exact on the invoice."""

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from analytics.reconciliation import Kind, reconcile
from billing import adjustments, credit, grants, merkle, pricing, proof, tiers
from billing.adjustments import Adjustment
from billing.invoicing import preview
from billing.ledger import Entry
from billing.merkle import Disproved
from billing.models import Account, Invoice, LedgerEntry, Meter, PriceVersion
from billing.tiers import Mode, Tiers
from billing.usage import Extra
from kit.money import NANOS
from tenants.models import Plan
from tests.billing import rows
from tests.billing.rows import NOW, RATES
from tests.billing.test_invoicing import close
from tests.billing.test_ledger import NOVEMBER, booked

LIST = RATES["input_tokens"]
MILLION = 1_000_000


@st.composite
def tierings(draw: st.DrawFn) -> Tiers:
    """Any steps at all, dearer ones later too."""
    begins = [0, *sorted(draw(st.sets(st.integers(1, 10**9), max_size=6)))]
    rates = [draw(st.integers(0, 10**12)) for _ in begins]
    return Tiers(draw(st.sampled_from(Mode)), tuple(zip(begins, rates, strict=True)))


UNITS = st.integers(0, 10**10)


@given(tiering=tierings(), units=UNITS, more=UNITS)
def test_more_units_never_cost_less(tiering: Tiers, units: int, more: int) -> None:
    data = {"mode": tiering.mode.value, "steps": tiering.steps}
    assert merkle.tiered(data, units) == tiering.amount(units)
    assert tiering.amount(0) == 0
    assert tiering.amount(units) <= tiering.amount(units + more)
    for begin, _ in tiering.steps[1:]:
        assert tiering.amount(begin - 1) <= tiering.amount(begin) <= tiering.amount(begin + 1)


@given(tiering=tierings(), parts=st.lists(UNITS, max_size=8))
def test_parts_add_up_to_the_whole(tiering: Tiers, parts: list[int]) -> None:
    starts = [sum(parts[:index]) for index in range(len(parts))]
    split = [tiering.between(*each) for each in zip(starts, parts, strict=True)]
    assert sum(split) == tiering.amount(sum(parts))
    assert all(amount >= 0 for amount in split)


def test_graduated_and_volume_are_what_people_mean_by_them() -> None:
    steps = ((0, 0), (1 * MILLION, 100), (3 * MILLION, 50))
    graduated, volume = Tiers(Mode.GRADUATED, steps), Tiers(Mode.VOLUME, steps)
    assert [graduated.amount(n * MILLION) for n in (1, 2, 3, 5)] == [0, 100, 200, 300]
    assert [volume.amount(n * MILLION) for n in (1, 2, 3, 5)] == [100, 150, 150, 250]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ([], "An object of meters"),
        ({"gpu": {"mode": "volume", "steps": [[0, 1]]}}, "no list price"),
        ({"input_tokens": {"steps": [[0, 1]]}}, "mode and steps"),
        ({"input_tokens": {"mode": "steep", "steps": [[0, 1]]}}, "none of graduated, volume"),
        ({"input_tokens": {"mode": "volume", "steps": []}}, "1 to 20"),
        ({"input_tokens": {"mode": "volume", "steps": [[1, 1]]}}, "begins at 0"),
        ({"input_tokens": {"mode": "volume", "steps": [[0, 1], [0, 2]]}}, "begins at 0"),
        ({"input_tokens": {"mode": "volume", "steps": [[0, 1.5]]}}, "is no step"),
        ({"input_tokens": {"mode": "volume", "steps": [[0, LIST + 1]]}}, "dearer than the list"),
    ],
)
def test_what_are_no_tiers_is_refused(data: Any, why: str) -> None:
    row = PriceVersion(model="m", currency="EUR", rates=RATES, tiers=data, effective_from=NOW)
    with pytest.raises(ValidationError, match=why):
        row.clean()


@pytest.fixture
def tiered(db: None, redis: Redis) -> PriceVersion:
    """The first thousand tokens in are included, then half of the list price past ten thousand."""
    steps = [[0, 0], [1_000, LIST], [10_000, LIST // 2]]
    return rows.price("wide", tiers={"input_tokens": {"mode": "graduated", "steps": steps}})


@pytest.fixture
def account(tiered: PriceVersion) -> Account:
    """Acme's."""
    return rows.account("acme")


def used(account: Account, price: PriceVersion, tokens: int, **fields: Any) -> Entry:
    """A request of the model wide, charged as requests are."""
    state = fields.get("state", "finished")
    units = {"input_tokens": tokens, "output_tokens": 0}
    charge = pricing.charge(pricing.version(price.pk), units, free=state == "failed")
    given: dict[str, Any] = {
        "model": "wide",
        "units": units,
        "amounts": dict(charge.amounts),
        "price_version": price.pk,
        **fields,
    }
    return rows.entry(account.organization_id, **given)


def proved(invoice: Invoice) -> None:
    """By its customer, from its units; and by us."""
    merkle.check(b"".join(proof.whole(invoice)).splitlines(), invoice.merkle_root)
    found = reconcile(invoice.organization, invoice.month).differences
    assert [each for each in found if each.kind is Kind.LEDGER] == []


def test_a_month_is_charged_by_its_tiers(account: Account, tiered: PriceVersion) -> None:
    entries = [used(account, tiered, 4_000, project=each) for each in ("a", "b", "b", "c", "")]
    booked(*entries, used(account, tiered, 9_999, state="failed"))
    draft = preview(organization=account.organization_id, month=NOVEMBER, now=NOW)
    invoice = close(account)
    due = (9_000 * LIST + 10_000 * (LIST // 2)) // MILLION
    assert draft.subtotal == invoice.subtotal == due
    lines = {(each.kind, each.project): each.nanos for each in invoice.lines.all() if each.nanos}
    assert lines[("use", "b")] == 8_000 * LIST // MILLION
    assert lines[("tier", "")] == due - 20_000 * LIST // MILLION
    assert invoice.row_count == 7
    proved(invoice)


def test_what_tiers_did_not_change_is_found_by_the_customer_and_by_us(
    account: Account, tiered: PriceVersion
) -> None:
    booked(used(account, tiered, 20_000))
    extra = Extra(LedgerEntry.Kind.TIER, "wide", Meter.INPUT_TOKENS, "made up", 0, 7)
    adjustments.book(
        [Adjustment("made up", NOW, extra)],
        organization=account.organization_id,
        now=NOW,
        month=NOVEMBER,
    )
    invoice = close(account)
    with pytest.raises(Disproved, match="tiers of wide input_tokens"):
        proved(invoice)
    found = reconcile(account.organization, NOVEMBER).differences
    assert "tiers wide input_tokens" in {each.subject for each in found}


def test_a_new_price_list_goes_on_counting_where_the_old_one_stopped(
    account: Account, tiered: PriceVersion
) -> None:
    steps = [[0, LIST], [10_000, 0]]
    later = rows.price(
        "wide",
        effective_from=datetime(2026, 11, 20, tzinfo=UTC),
        tiers={"input_tokens": {"mode": "graduated", "steps": steps}},
    )
    booked(used(account, tiered, 6_000), used(account, later, 6_000))
    invoice = close(account)
    assert invoice.subtotal == (5_000 + 4_000) * LIST // MILLION
    proved(invoice)


def test_grants_get_back_what_they_paid_too_much(
    account: Account, tiered: PriceVersion, django_capture_on_commit_callbacks: Any
) -> None:
    organization = account.organization_id
    soon = NOW + timedelta(days=20)
    first = grants.give(
        organization=organization, amount=200_000, reason="a", now=NOW, expires_at=soon
    )
    second = grants.give(organization=organization, amount=NANOS, reason="b", now=NOW)
    booked(used(account, tiered, 2_000))
    with django_capture_on_commit_callbacks(execute=True):
        invoice = close(account)
    for grant in (first, second):
        grant.refresh_from_db()
    assert (first.remaining, second.remaining) == (50_000, NANOS)
    assert (invoice.subtotal, invoice.granted, invoice.total_minor) == (150_000, 150_000, 0)
    found = credit.counters(organization)
    assert found is not None
    assert found.limit - found.spent == account.credit_limit + 50_000 + NANOS


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    uses=st.lists(
        st.tuples(st.integers(0, 20_000), st.sampled_from(["", "a", "b"]), st.booleans()),
        min_size=1,
        max_size=10,
    ),
    seed=st.integers(),
)
def test_a_month_shuffled_and_doubled_gives_the_same_invoice(
    account: Account, tiered: PriceVersion, uses: list[tuple[int, str, bool]], seed: int
) -> None:
    entries = [
        used(account, tiered, tokens, project=project, state="failed" if failed else "finished")
        for tokens, project, failed in uses
    ]
    said = []
    for order in (entries, Random(seed).sample(entries * 2, k=2 * len(entries))):  # noqa: S311
        with transaction.atomic():
            for each in order:
                booked(each)
            invoice = close(account)
            said.append((invoice.subtotal, invoice.merkle_root, _lines(invoice)))
            transaction.set_rollback(True)
    assert said[0][0] == said[1][0]
    assert said[0][2] == said[1][2]
    tokens = sum(tokens for tokens, _, failed in uses if not failed)
    assert said[0][0] == pricing.version(tiered.pk).tiers["input_tokens"].amount(tokens)


def _lines(invoice: Any) -> list[tuple[Any, ...]]:
    names = ("kind", "model", "meter", "project", "units", "nanos", "minor")
    return list(invoice.lines.values_list(*names))


def test_a_plans_price_goes_before_the_lists_and_ones_own_before_it(account: Account) -> None:
    organization = account.organization
    organization.plan = Plan.objects.create(name="Team")
    organization.save()
    rows.price("wide", plan=organization.plan, rates={"input_tokens": 2})

    def rate() -> int:
        found = pricing.price_for("wide", NOW, organization=organization.pk)
        return found.rates["input_tokens"]

    assert rate() == 2
    rows.price("wide", organization=organization, rates={"input_tokens": 1})
    assert rate() == 1
    assert pricing.price_for("wide", NOW).rates == RATES


def test_many_projects_share_a_line_beyond_the_forty(account: Account) -> None:
    booked(*(rows.entry(account.organization_id, project=f"p{n:02}") for n in range(45)))
    projects = set(close(account).lines.values_list("project", flat=True))
    assert len(projects) == 40
    assert "(others)" in projects


def test_tiers_are_found_wanting_nothing_when_right(tiered: PriceVersion) -> None:
    assert tiers.problem(tiered.tiers, tiered.rates) == ""
