"""A month's usage by whatever it is grouped by."""

from datetime import timedelta
from itertools import combinations, product

from billing.grouping import By, grouped
from billing.models import Account
from billing.usage import summary
from tests.billing.rows import NOW, entry
from tests.billing.test_ledger import NOVEMBER, booked

EVERY_WAY = [list(way) for count in range(1, 6) for way in combinations(By, count)]


def test_groups_are_named_by_what_they_share(account: Account) -> None:
    organization = account.organization_id
    booked(
        entry(organization, project="site", key="a"),
        entry(organization, project="site", key="b"),
        entry(organization, key="b"),
    )
    booked(entry(organization, project="site", key="b"), now=NOW + timedelta(days=1))
    found, shared = grouped(organization, NOVEMBER, [By.PROJECT])
    assert not shared
    assert [(each.of, each.requests, each.amount) for each in found] == [
        ({"project": ""}, 1, 4_500),
        ({"project": "site"}, 3, 13_500),
    ]
    days = [each.of["day"] for each in grouped(organization, NOVEMBER, [By.DAY])[0]]
    assert days == ["2026-11-24", "2026-11-25"]
    meters, _ = grouped(organization, NOVEMBER, [By.METER])
    assert [(each.of["meter"], each.amount) for each in meters] == [
        ("input_tokens", 6_000),
        ("output_tokens", 12_000),
    ]


def test_however_it_is_grouped_it_sums_to_the_month(account: Account) -> None:
    """Of nothing too, and of what cost nothing."""
    for nanos in ([], [0, 3, 7, 9]):
        for (model, project), each in zip(product("ab", ["", "x"]), nanos, strict=False):
            amounts = {"input_tokens": each, "output_tokens": 1}
            booked(entry(account.organization_id, model=model, project=project, amounts=amounts))
        whole = summary(account.organization_id, NOVEMBER).amount
        for way, most in product(EVERY_WAY, (10, 1)):
            found, _ = grouped(account.organization_id, NOVEMBER, way, most=most)
            assert sum(group.amount for group in found) == whole


def test_groups_past_the_most_share_one(account: Account) -> None:
    organization = account.organization_id
    booked(*(entry(organization, project=name) for name in "abcd"))
    found, shared = grouped(organization, NOVEMBER, [By.PROJECT], most=2)
    assert shared
    assert [(each.of["project"], each.requests, each.amount) for each in found] == [
        ("a", 1, 4_500),
        ("b", 1, 4_500),
        ("(others)", 2, 9_000),
    ]
    by_meter, _ = grouped(organization, NOVEMBER, [By.PROJECT, By.METER], most=2)
    others = [each for each in by_meter if each.of["project"] == "(others)"]
    assert [(each.of["meter"], each.amount) for each in others] == [
        ("input_tokens", 3_000),
        ("output_tokens", 6_000),
    ]


def test_others_rows_are_not_counted(account: Account, other: Account) -> None:
    booked(entry(other.organization_id))
    assert grouped(account.organization_id, NOVEMBER, [By.MODEL]) == ([], False)
