"""A month priced again."""

from io import StringIO
from pathlib import Path
from typing import Any

import orjson
import pytest
from django.core.management import CommandError, call_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import pricing
from billing.models import Account, LedgerEntry, PriceVersion
from billing.pricing import Price, charge
from billing.rerating import rerate
from tests.billing import rows
from tests.billing.rows import NOW, RATES, entry
from tests.billing.test_invoicing import close
from tests.billing.test_ledger import NOVEMBER, booked

NEW = {"input_tokens": 2 * RATES["input_tokens"], "output_tokens": RATES["output_tokens"]}


def used(account: Account, **fields: Any) -> None:
    """A row as its price makes it."""
    units = fields.pop("units", {"input_tokens": 1_001, "output_tokens": 77})
    version = PriceVersion.objects.get(model="echo")
    state = fields.get("state", "finished")
    free = state == "failed" or (state == "cancelled" and not units["output_tokens"])
    due = charge(pricing.version(version.pk), units, free=free)
    fields = {"units": units, "amounts": dict(due.amounts), "price_version": version.pk, **fields}
    booked(entry(account.organization_id, **fields))


def again(account: Account, **how: Any) -> list[tuple[str, int, int, int]]:
    found = rerate(organization=account.organization_id, month=NOVEMBER, **how)
    return [(row.model, row.requests, row.changed, row.difference) for row in found]


def test_under_its_own_prices_nothing_differs_and_what_was_free_stays_free(
    account: Account,
) -> None:
    used(account)
    used(account, state="failed")
    used(account, state="cancelled", units={"input_tokens": 5, "output_tokens": 0})
    used(account, state="cancelled")
    assert again(account) == [("echo", 4, 0, 0)]


def test_under_other_prices_the_difference_is_shown(account: Account, other: Account) -> None:
    used(account)
    used(account, state="failed")
    used(other)
    booked(entry(account.organization_id, model="unpriced"))
    old, new = (
        charge(Price(0, "echo", "EUR", NOW, rates), {"input_tokens": 1_001, "output_tokens": 77})
        for rates in (RATES, NEW)
    )
    assert again(account, lists={"echo": NEW}) == [
        ("echo", 2, 1, new.amount - old.amount),
        ("unpriced", 1, 0, 0),
    ]


def test_a_row_that_is_not_what_its_prices_make_of_it_is_counted(account: Account) -> None:
    used(account)
    used(account, amounts={"input_tokens": 1, "output_tokens": 0})
    ((_, requests, changed, difference),) = again(account)
    assert (requests, changed) == (2, 1)
    assert difference > 0


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(factor=st.integers(0, 9), counts=st.lists(st.integers(0, 10**9), max_size=4))
def test_prices_times_a_number_are_amounts_times_it(
    account: Account, factor: int, counts: list[int]
) -> None:
    LedgerEntry.objects.for_org(account.organization_id)
    before = {
        row.model: row for row in rerate(organization=account.organization_id, month=NOVEMBER)
    }
    for count in counts:
        used(account, units={"input_tokens": count * 1_000_000, "output_tokens": 0})
    lists = {"echo": {"input_tokens": factor * RATES["input_tokens"]}}
    for row in rerate(organization=account.organization_id, month=NOVEMBER, lists=lists):
        assert row.rerated == factor * row.booked
        assert row.requests == len(counts) + (before["echo"].requests if before else 0)


def test_tiers_are_replayed_as_the_months_end_counts_them(account: Account) -> None:
    steps = [[0, RATES["input_tokens"]], [1_000, 0]]
    tiers = {"input_tokens": {"mode": "graduated", "steps": steps}}
    later = rows.price("echo", effective_from=NOW, tiers=tiers)
    for _ in range(3):
        units = {"input_tokens": 1_000, "output_tokens": 0}
        due = charge(pricing.version(later.pk), units)
        amounts = dict(due.amounts)
        booked(entry(account.organization_id, units=units, amounts=amounts, price_version=later.pk))
    assert again(account) == [("echo", 3, 0, 0)]
    close(account)
    assert again(account) == [("echo", 3, 0, 0)]
    ((_, _, _, difference),) = again(account, lists={"echo": RATES})
    assert difference == 2 * 1_000 * RATES["input_tokens"] // 10**6
    dearer = {**RATES, "tiers": {"input_tokens": {"mode": "volume", "steps": steps}}}
    ((_, _, _, difference),) = again(account, lists={"echo": dearer})
    assert difference == -1_000 * RATES["input_tokens"] // 10**6


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("rerate", "--month", "2026-11", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_prints_both_amounts(account: Account, tmp_path: Path) -> None:
    booked(
        entry(
            account.organization_id,
            units={"input_tokens": 10**6},
            amounts={"input_tokens": RATES["input_tokens"]},
            price_version=PriceVersion.objects.get().pk,
        )
    )
    file = tmp_path / "prices.json"
    file.write_bytes(orjson.dumps({"echo": NEW}))
    said = run("--organization", "acme", "--prices", str(file))
    assert "EUR 0.15" in said
    assert said.count("EUR 0.30") == 1
    assert "acme" in run()


def test_the_command_fails_where_a_row_is_wrong(account: Account) -> None:
    used(account, amounts={"input_tokens": 1, "output_tokens": 0})
    with pytest.raises(SystemExit):
        run()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("no json", "unexpected|expected|invalid"),
        ("[]", "object"),
        ('{"echo": {"tokens": 1}}', "no meter"),
        ('{"echo": {"input_tokens": 0.5}}', "no whole number"),
    ],
)
def test_a_price_list_that_is_none_is_refused(
    account: Account, tmp_path: Path, content: str, why: str
) -> None:
    file = tmp_path / "prices.json"
    file.write_text(content)
    with pytest.raises(CommandError, match=why):
        run("--prices", str(file))


def test_who_does_not_exist_is_refused(account: Account) -> None:
    with pytest.raises(CommandError, match="nobody"):
        run("--organization", "nobody")
    rows.account("globex")
    assert run("--organization", "globex")
