"""The requests of a month, summed by day, model, key, project and meter."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any, cast

from django.db.models import F, Sum

from billing.days import UsageDay
from billing.models import Meter
from billing.usage import sums

MOST = 10_000
"""Groups in one answer."""


class By(StrEnum):
    """What rows can be grouped by."""

    DAY = "day"
    MODEL = "model"
    KEY = "key"
    PROJECT = "project"
    METER = "meter"


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that are alike: by what, how many requests, units by meter, and nanos."""

    of: Mapping[str, str]
    requests: int
    units: Mapping[str, int]
    amount: int


def grouped(organization: int, month: date, by: Sequence[By]) -> list[Group]:
    """A month's groups, in the order of what they are grouped by; at most `MOST`.

    By meter, the amounts are the meter's parts; together the groups always sum to the month's use.
    """
    names = [each.value for each in by if each is not By.METER]
    rows = (
        UsageDay.objects.for_org(organization)
        .filter(month=month)
        .annotate(one=F("organization"))
        .order_by(*names)
        .values(*(names or ["one"]))
        .annotate(count=Sum("requests"), total=Sum("amount"), **sums())
    )
    found: Iterable[Group] = (
        group
        for row in cast(Iterable[dict[str, Any]], rows[:MOST])
        for group in _groups(row, names, split=By.METER in by)
    )
    return list(found)


def _groups(row: Mapping[str, Any], names: Sequence[str], *, split: bool) -> Iterator[Group]:
    of = {name: str(row[name]) for name in names}
    units = {meter.value: int(row[f"units_{meter.value}"]) for meter in Meter}
    if not split:
        yield Group(of, int(row["count"]), units, int(row["total"]))
        return
    for meter in Meter:
        amount = int(row[f"amounts_{meter.value}"])
        if units[meter.value] or amount:
            part = {meter.value: units[meter.value]}
            yield Group({**of, "meter": meter.value}, int(row["count"]), part, amount)
