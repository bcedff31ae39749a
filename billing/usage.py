"""What the ledger has for a month: use by model and project, and what else is charged."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import groupby
from typing import Any, cast
from uuid import UUID

from django.db.models import BigIntegerField, Sum
from django.db.models.fields.json import KT
from django.db.models.functions import Cast

from billing.days import UsageDay
from billing.models import Account, LedgerEntry, Meter

Kind = LedgerEntry.Kind


@dataclass(frozen=True, slots=True)
class Use:
    """What was used of one model, in all or by one project: units and nanos by meter."""

    model: str
    requests: int
    units: Mapping[str, int]
    amounts: Mapping[str, int]
    amount: int
    project: str = ""


@dataclass(frozen=True, slots=True)
class Extra:
    """A row that no request wrote: what of, and the nanos that it adds or takes off."""

    kind: str
    model: str
    meter: str
    label: str
    units: int
    nanos: int


@dataclass(frozen=True, slots=True)
class Summary:
    """A month of an organization's, by model and project."""

    organization: int
    month: date
    currency: str
    parts: tuple[Use, ...] = field(default=())
    extras: tuple[Extra, ...] = field(default=())

    @property
    def models(self) -> tuple[Use, ...]:
        """By model, of all projects."""
        by_model = groupby(self.parts, key=lambda part: part.model)
        return tuple(_sum(model, list(parts)) for model, parts in by_model)

    @property
    def requests(self) -> int:
        """Of all models, however they ended."""
        return sum(use.requests for use in self.parts)

    @property
    def used(self) -> int:
        """What requests come to, in nanos."""
        return sum(use.amount for use in self.parts)

    @property
    def amount(self) -> int:
        """Everything, in nanos."""
        return self.used + sum(extra.nanos for extra in self.extras)

    def units(self, meter: Meter) -> int:
        """Of all models."""
        return sum(use.units[meter.value] for use in self.parts)


def summary(organization: int, month: date) -> Summary:
    """What the ledger has for a month; the use in one statement and so of one moment."""
    used = (
        UsageDay.objects.for_org(organization)
        .filter(month=month)
        .order_by("model", "project")
        .values("model", "project")
        .annotate(count=Sum("requests"), total=Sum("amount"), **sums())
    )
    parts = tuple(_use(row) for row in cast(Iterable[dict[str, Any]], used))
    currency = Account.objects.for_org(organization).values_list("currency", flat=True).first()
    rows = LedgerEntry.objects.for_org(organization).filter(month=month)
    others = rows.exclude(kind__in=LedgerEntry.USED).order_by("request")
    extras = tuple(extra for row in others for extra in _extras(row))
    return Summary(organization, month, currency or "", parts, extras)


def sums() -> Mapping[str, Sum]:
    """What to ask of days of use: `units_<meter>` and `amounts_<meter>` of each meter."""
    return {
        f"{column}_{meter.value}": Sum(
            Cast(KT(f"{column}__{meter.value}"), BigIntegerField()), default=0
        )
        for meter in Meter
        for column in ("units", "amounts")
    }


def _use(row: Mapping[str, Any]) -> Use:
    return Use(
        model=row["model"],
        requests=int(row["count"]),
        units={meter.value: int(row[f"units_{meter.value}"]) for meter in Meter},
        amounts={meter.value: int(row[f"amounts_{meter.value}"]) for meter in Meter},
        amount=int(row["total"]),
        project=row["project"],
    )


def _extras(row: LedgerEntry) -> Iterable[Extra]:
    for meter, nanos in sorted(row.amounts.items()):
        yield Extra(row.kind, row.model, meter, row.label, row.units.get(meter, 0), nanos)


def _sum(model: str, parts: Sequence[Use]) -> Use:
    names = [meter.value for meter in Meter]
    return Use(
        model=model,
        requests=sum(part.requests for part in parts),
        units={name: sum(part.units[name] for part in parts) for name in names},
        amounts={name: sum(part.amounts[name] for part in parts) for name in names},
        amount=sum(part.amount for part in parts),
    )


@dataclass(frozen=True, slots=True)
class Row:
    """A request in the ledger, as its owner sees it."""

    request: UUID
    model: str
    state: str
    units: Mapping[str, int]
    amount: int
    label: str
    created_at: datetime


def recent(organization: int, month: date, *, most: int) -> tuple[Row, ...]:
    """The latest requests booked to a month, the newest first."""
    columns = ("request", "model", "state", "units", "amount", "label", "created_at")
    rows = LedgerEntry.objects.for_org(organization).filter(month=month, kind=Kind.USE)
    return tuple(Row(*row) for row in rows.order_by("-request").values_list(*columns)[:most])
