"""What use costs, and how it is rounded."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from django.db import InternalError, ProgrammingError, transaction
from hypothesis import given
from hypothesis import strategies as st

from billing import pricing, standing
from billing.models import LARGEST, PART_OF, Account, Meter, PriceVersion
from billing.prices import rates_problem
from billing.pricing import NoPrice, Price, charge, most
from kit.money import minor_exponent, to_minor
from tests.billing.rows import NOW, RATES, price

COUNTS = st.integers(0, 10**9)
RATE = st.integers(0, 10**12)
UNITS = st.fixed_dictionaries({meter.value: COUNTS for meter in Meter})


def priced(rates: dict[str, int]) -> Price:
    return Price(1, "echo", "EUR", NOW, rates)


@given(units=UNITS, rates=st.fixed_dictionaries({meter.value: RATE for meter in Meter}))
def test_each_meter_is_rounded_half_to_even_and_the_parts_are_the_whole(
    units: dict[str, int], rates: dict[str, int]
) -> None:
    found = charge(priced(rates), units)
    assert found.amount == sum(found.amounts.values())
    exact = {meter: Fraction(units[meter] * rates[meter], 1_000_000) for meter in units}
    for meter in set(exact) - set(PART_OF.values()):
        assert found.amounts[meter] == round(exact[meter])
    for part, whole in PART_OF.items():
        assert found.amounts[part] + found.amounts[whole] == round(exact[part] + exact[whole])


@given(
    count=COUNTS,
    part=st.integers(0, 100),
    rates=st.tuples(RATE, RATE),
    pair=st.sampled_from(list(PART_OF.items())),
    own=st.booleans(),
)
def test_however_a_request_is_split_it_costs_no_more_than_was_held(
    count: int, part: int, rates: tuple[int, int], pair: tuple[Meter, Meter], own: bool
) -> None:
    cheaper, whole = (meter.value for meter in pair)
    low, high = sorted(rates)
    split = {whole: count - count * part // 100, cheaper: count * part // 100}
    found = charge(priced({whole: high} | ({cheaper: low} if own else {})), split)
    held = most(priced({whole: high}), **{whole: count})
    assert min(found.amounts.values()) >= 0
    assert found.amount <= held if own else found.amount == held


def test_a_part_is_not_dearer_than_its_whole() -> None:
    assert rates_problem({"input_tokens": 2, "cached_input_tokens": 2}) == ""
    assert "held for it" in rates_problem({"input_tokens": 2, "cached_input_tokens": 3})
    assert "held for it" in rates_problem({"reasoning_tokens": 1})


@given(units=UNITS, more=UNITS, rates=st.fixed_dictionaries({meter.value: RATE for meter in Meter}))
def test_no_request_costs_more_than_the_most_it_can(
    units: dict[str, int], more: dict[str, int], rates: dict[str, int]
) -> None:
    limit = most(priced(rates), **{meter: units[meter] + more[meter] for meter in units})
    assert charge(priced(rates), units).amount <= limit


@given(
    lines=st.lists(st.integers(0, LARGEST), max_size=50),
    currency=st.sampled_from(["EUR", "JPY", "KWD"]),
)
def test_minor_units_add_up_to_the_total_rounded_once(lines: Sequence[int], currency: str) -> None:
    minors = to_minor(lines, currency)
    unit = 10 ** (9 - minor_exponent(currency))
    assert sum(minors) == round(Fraction(sum(lines), unit))
    assert all(
        abs(minor - Fraction(line, unit)) < 1 for minor, line in zip(minors, lines, strict=True)
    )


def test_what_is_free_has_its_units_at_no_cost() -> None:
    found = charge(priced(RATES), {"input_tokens": 10, "output_tokens": 5}, free=True)
    assert found.amount == 0
    assert found.amounts == {"input_tokens": 0, "output_tokens": 0}


def test_a_meter_without_a_rate_costs_nothing() -> None:
    assert charge(priced({"input_tokens": 10**6}), {"output_tokens": 7}).amount == 0


@pytest.mark.parametrize("units", [{"input_tokens": -1}, {"tokens": 1}])
def test_impossible_units_are_an_error(units: dict[str, int]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        charge(priced(RATES), units)


def test_the_latest_price_in_force_counts(account: Account) -> None:
    old = price("m")
    new = price("m", effective_from=NOW, rates={"input_tokens": 1})
    assert pricing.price_for("m", NOW - timedelta(microseconds=1)).version == old.pk
    assert pricing.price_for("m", NOW).version == new.pk
    assert pricing.price_for("m", NOW).rates == {"input_tokens": 1}


def test_a_version_is_found_however_old(account: Account) -> None:
    old = price("m")
    price("m", effective_from=NOW)
    assert pricing.version(old.pk).rates == RATES
    with pytest.raises(NoPrice):
        pricing.version(10**9)


def test_a_version_made_since_the_last_look_is_found(account: Account) -> None:
    pricing.price_for("echo", NOW)
    row = PriceVersion.objects.create(model="new", currency="EUR", rates=RATES, effective_from=NOW)
    assert pricing.version(row.pk).model == "new"


def test_a_model_without_a_price_in_force_is_not_served(account: Account) -> None:
    price("later", effective_from=NOW + timedelta(days=1))
    for name in ("later", "unknown"):
        with pytest.raises(NoPrice, match=name):
            pricing.price_for(name, NOW)


def test_two_currencies_are_never_mixed_up(account: Account) -> None:
    price("m")
    price("m", currency="JPY", rates={"input_tokens": 7})
    assert pricing.price_for("m", NOW, currency="JPY").rates == {"input_tokens": 7}
    with pytest.raises(NoPrice, match="EUR, JPY"):
        pricing.price_for("m", NOW)
    with pytest.raises(NoPrice, match="USD"):
        pricing.price_for("m", NOW, currency="USD")


@pytest.fixture
def committed_price(transactional_db: None) -> PriceVersion:
    """That other threads see."""
    return price("m")


@pytest.mark.django_db(transaction=True)
async def test_the_event_loop_reads_prices_too(committed_price: PriceVersion) -> None:
    assert (await pricing.price_of("m")).version == committed_price.pk


@pytest.mark.parametrize(
    "rates",
    [
        None,
        [],
        {},
        {"tokens": 1},
        {"input_tokens": 0.5},
        {"input_tokens": -1},
        {"input_tokens": True},
        {"input_tokens": "1"},
        {"input_tokens": LARGEST + 1},
    ],
)
def test_rates_that_are_no_price_are_refused(rates: object) -> None:
    assert rates_problem(rates)
    assert not rates_problem(RATES)


def test_a_price_in_force_never_changes(account: Account) -> None:
    old = price("m")
    for change in (
        lambda: PriceVersion.objects.filter(pk=old.pk).update(rates={"input_tokens": 1}),
        lambda: PriceVersion.objects.filter(pk=old.pk).delete(),
    ):
        with (
            pytest.raises((InternalError, ProgrammingError), match="refused"),
            transaction.atomic(),
        ):
            change()
    assert PriceVersion.objects.filter(pk=old.pk).update(rates=RATES) == 1
    ahead = price("m", effective_from=datetime.now(UTC) + timedelta(days=1))
    ahead.delete()


def test_an_organization_with_a_price_of_its_own_pays_that(account: Account) -> None:
    listed = price("m")
    own = price("m", organization=account.organization, rates={"input_tokens": 7})
    later = price("m", effective_from=NOW)
    mine = account.organization_id
    assert pricing.price_for("m", NOW).version == later.pk
    assert pricing.price_for("m", NOW, organization=mine).version == own.pk
    assert pricing.price_for("m", NOW, organization=mine + 1).version == later.pk
    assert pricing.price_for("m", NOW - timedelta(days=1)).version == listed.pk
    offered = [each for each in standing.prices(organization=mine, now=NOW) if each.model == "m"]
    assert [each.rates for each in offered] == [{"input_tokens": 7}]


def test_a_price_of_ones_own_begins_in_its_time(account: Account) -> None:
    listed = price("m")
    own = price(
        "m", organization=account.organization, rates={"input_tokens": 7}, effective_from=NOW
    )
    before = NOW - timedelta(seconds=1)
    mine = account.organization_id
    assert pricing.price_for("m", before, organization=mine).version == listed.pk
    assert pricing.price_for("m", NOW, organization=mine).version == own.pk
    offered = [each for each in standing.prices(organization=mine, now=before) if each.model == "m"]
    assert len(offered) == 2
