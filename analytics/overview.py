"""What an operator sees first: how many there are, what they used, and whether it all runs."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

from django.db import OperationalError, connection, transaction
from django.db.models import BigIntegerField, Count, Q, QuerySet, Sum
from django.db.models.fields.json import KT
from django.db.models.functions import Cast

from billing.models import READ, WRITTEN, LedgerEntry, Meter, tokens
from billing.months import month_before, month_of
from kit.ids import first_id
from kit.money import show
from tenants.models import Organization

_PATIENCE_MS = 2_000
_TOP = 5


@dataclass(frozen=True, slots=True)
class Use:
    """What was used, and what it comes to in nanos by currency."""

    requests: int
    input_tokens: int
    output_tokens: int
    amounts: Mapping[str, int]

    @property
    def amount(self) -> str:
        """For people."""
        return " + ".join(show(nanos, currency) for currency, nanos in self.amounts.items())


@dataclass(frozen=True, slots=True)
class UseOf:
    """An organization's part."""

    slug: str
    name: str
    use: Use


@dataclass(frozen=True, slots=True)
class Overview:
    """The ledger's today and month, the organizations that used most, and how many there are.

    `today`, `this_month` and `top` are None where adding up took too long.
    """

    organizations: int
    suspended: int
    month: date
    today: Use | None
    this_month: Use | None
    top: tuple[UseOf, ...] | None


def overview(now: datetime) -> Overview:
    """As of `now`; days and months are UTC's."""
    month = month_of(now)
    counts = Organization.objects.aggregate(
        all=Count("pk"), suspended=Count("pk", filter=Q(suspended_at__isnull=False))
    )
    midnight = _begin(now.astimezone(UTC).date())
    today, parts = _within_patience(midnight, month)
    return Overview(
        organizations=counts["all"],
        suspended=counts["suspended"],
        month=month,
        today=today,
        this_month=None if parts is None else _sum(part.use for part in parts),
        top=None if parts is None else parts[:_TOP],
    )


def _within_patience(
    midnight: datetime, month: date
) -> tuple[Use | None, tuple[UseOf, ...] | None]:
    """A ledger too large to be added up while a page waits leaves the page without its sums."""
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute(f"SET LOCAL statement_timeout = {_PATIENCE_MS}")
            return _today(midnight), _by_organization(month)
    except OperationalError:
        return None, None


def _today(midnight: datetime) -> Use:
    rows = LedgerEntry.objects.across_organizations().filter(request__gte=first_id(midnight))
    return _sum(_use(row) for row in _sums(rows, "currency"))


def _by_organization(month: date) -> tuple[UseOf, ...]:
    """Of this month's bookings, whose requests came now or, where a month closed early, before."""
    rows = LedgerEntry.objects.across_organizations().filter(
        month=month, request__gte=first_id(_begin(month_before(month)))
    )
    uses: dict[tuple[str, str], list[Use]] = defaultdict(list)
    for row in _sums(rows, "organization__slug", "organization__name", "currency"):
        uses[row["organization__slug"], row["organization__name"]].append(_use(row))
    found = [UseOf(slug, name, _sum(parts)) for (slug, name), parts in uses.items()]
    return tuple(sorted(found, key=lambda part: (-sum(part.use.amounts.values()), part.name)))


def _sums(rows: QuerySet[LedgerEntry], *by: str) -> Iterable[dict[str, Any]]:
    units = {
        meter.value: Sum(Cast(KT(f"units__{meter}"), BigIntegerField()), default=0)
        for meter in Meter
    }
    sums: Any = rows.order_by().values(*by)
    return list(sums.annotate(n=Count("pk", filter=Q(kind="use")), nanos=Sum("amount"), **units))


def _use(row: Mapping[str, Any]) -> Use:
    nanos = {row["currency"]: int(row["nanos"])}
    units = {meter.value: int(row[meter.value]) for meter in Meter}
    return Use(row["n"], tokens(units, *READ), tokens(units, *WRITTEN), nanos)


def _sum(uses: Iterable[Use]) -> Use:
    requests = input_tokens = output_tokens = 0
    amounts: dict[str, int] = defaultdict(int)
    for use in uses:
        requests += use.requests
        input_tokens += use.input_tokens
        output_tokens += use.output_tokens
        for currency, nanos in use.amounts.items():
            amounts[currency] += nanos
    return Use(requests, input_tokens, output_tokens, dict(sorted(amounts.items())))


def _begin(day: date) -> datetime:
    return datetime.combine(day, time.min, UTC)
