"""The requests of a month, summed by day, model, key, project and meter."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any

from django.db.models import F, QuerySet, Sum

from billing.days import UsageDay
from billing.models import Meter
from billing.usage import sums

MOST = 10_000
"""Groups in one answer."""
OTHERS = "(others)"
"""What the group is called that sums those past `MOST`."""


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


def grouped(
    organization: int, month: date, by: Sequence[By], *, most: int = MOST
) -> tuple[list[Group], bool]:
    """A month's groups, in the order of what they are grouped by; and whether some share one.

    By meter, the amounts are the meter's parts; together the groups always sum to the month's use:
    those past the first `most` are summed under the name `OTHERS`.
    """
    names = [each.value for each in by if each is not By.METER]
    month_of_days = UsageDay.objects.for_org(organization).filter(month=month)
    days = month_of_days.annotate(one=F("organization"))
    found = list(_summed(days, names).order_by(*names)[: most + 1])
    if len(found) > most:
        del found[most:]
        (whole,) = _summed(days, [])
        found.append(_rest(whole, found, names))
        return _split(found, names, by), True
    return _split(found, names, by), False


def _summed(days: QuerySet[UsageDay], names: Sequence[str]) -> Any:
    rows = days.order_by().values(*(names or ["one"]))
    return rows.annotate(count=Sum("requests"), total=Sum("amount"), **sums())


def _rest(
    whole: Mapping[str, Any], found: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, Any]:
    """What the whole month has beyond the rows that were found."""
    left = {
        name: int(value) - sum(int(row[name]) for row in found)
        for name, value in whole.items()
        if name != "one"
    }
    return {**left, **dict.fromkeys(names, OTHERS)}


def _split(
    rows: Iterable[Mapping[str, Any]], names: Sequence[str], by: Sequence[By]
) -> list[Group]:
    return [group for row in rows for group in _groups(row, names, split=By.METER in by)]


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
