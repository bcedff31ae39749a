"""Use by day, model, key and project: summed as rows are booked, so that a month is read at once.

A row here is what rows of the ledger come to, changed in the transaction that writes them; the
ledger is the truth, closing a month and the nightly reconciliation compare both.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime

import orjson
from django.db import connection, models

from billing.prices import Meter
from kit.prepared import execute
from tenants.models import Organization
from tenants.scoping import OwnedQuerySet

_ADD = """
INSERT INTO public.billing_usageday AS day
    (organization_id, month, day, model, key, project, requests, amount, units, amounts)
SELECT * FROM unnest(%s::bigint[], %s::date[], %s::date[], %s::text[], %s::text[], %s::text[],
    %s::bigint[], %s::bigint[], %s::jsonb[], %s::jsonb[])
ON CONFLICT (organization_id, month, day, model, key, project) DO UPDATE SET
    requests = day.requests + excluded.requests,
    amount = day.amount + excluded.amount,
    units = public.billing_sum_of(day.units, excluded.units),
    amounts = public.billing_sum_of(day.amounts, excluded.amounts)
"""
OF = {
    column: "jsonb_strip_nulls(jsonb_build_object("
    + ", ".join(f"'{meter}', sum(({column}->>'{meter}')::bigint)" for meter in Meter)
    + "))"
    for column in ("units", "amounts")
}
SUMMED = """
SELECT organization_id, month, (created_at AT TIME ZONE 'UTC')::date AS day, model, key, project,
    count(*) FILTER (WHERE kind = 'use') AS requests, sum(amount)::bigint AS amount,
    {units} AS units, {amounts} AS amounts
FROM public.billing_ledgerentry WHERE kind IN ('use', 'meter') AND {which}
GROUP BY 1, 2, 3, 4, 5, 6
"""
FILL = (
    "INSERT INTO public.billing_usageday"
    " (organization_id, month, day, model, key, project, requests, amount, units, amounts) "
)
_ONE = "organization_id = %(organization)s AND month = %(month)s"


class UsageDay(models.Model):
    """A day's use of a model with a key for a project, of what was booked to a month."""

    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="+", db_index=False
    )
    month = models.DateField()
    day = models.DateField()
    model = models.CharField(max_length=64)
    key = models.CharField(max_length=16)
    project = models.CharField(max_length=64)
    requests = models.BigIntegerField()
    amount = models.BigIntegerField()
    units = models.JSONField()
    amounts = models.JSONField()

    objects = OwnedQuerySet["UsageDay"].as_manager()

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("organization", "month", "day", "model", "key", "project"),
                name="one_sum_a_day",
            ),
        )

    def __str__(self) -> str:
        return f"{self.day} · {self.model}"


Group = tuple[int, date, str, str, str]
"""Organization, month, model, key, project."""
Part = tuple[int, int, Mapping[str, int], Mapping[str, int]]
"""How many requests, an amount, and units and amounts by meter."""


def add(parts: Iterable[tuple[Group, Part]], *, now: datetime) -> None:
    """Count rows that were just written, in the transaction that wrote them."""
    sums: dict[Group, list[int]] = {}
    meters: dict[Group, tuple[dict[str, int], dict[str, int]]] = {}
    for group, (requests, amount, units, amounts) in parts:
        total = sums.setdefault(group, [0, 0])
        total[:] = [total[0] + requests, total[1] + amount]
        for into, more in zip(meters.setdefault(group, ({}, {})), (units, amounts), strict=True):
            for meter, number in more.items():
                into[meter] = into.get(meter, 0) + number
    if not sums:
        return
    day = now.astimezone(UTC).date()
    rows = [
        (
            *(organization, month, day, model, key, project, *sums[group]),
            *(orjson.dumps(each).decode() for each in meters[group]),
        )
        for group in sorted(sums)
        for organization, month, model, key, project in [group]
    ]
    execute(_ADD, list(map(list, zip(*rows, strict=True))))


def rebuild(organization: int, month: date) -> None:
    """Sum a month anew from the ledger; its period is locked, so that nobody books meanwhile."""
    UsageDay.objects.for_org(organization).filter(month=month).delete()
    with connection.cursor() as cursor:
        cursor.execute(
            FILL + SUMMED.format(which=_ONE, **OF), {"organization": organization, "month": month}
        )


def differing(organization: int, month: date) -> list[tuple[str, str]]:
    """Where the sums are not the ledger's: day, model, key and project, and what was found."""
    statement = f"""
        SELECT day, model, key, project, s.requests, s.amount, l.requests, l.amount
        FROM (SELECT * FROM public.billing_usageday WHERE {_ONE}) s
        FULL JOIN ({SUMMED.format(which=_ONE, **OF)}) l
            USING (organization_id, month, day, model, key, project)
        WHERE s.requests IS DISTINCT FROM l.requests OR s.amount IS DISTINCT FROM l.amount
            OR s.units IS DISTINCT FROM l.units OR s.amounts IS DISTINCT FROM l.amounts
        ORDER BY 1, 2, 3, 4
    """  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(statement, {"organization": organization, "month": month})
        return [
            (
                f"{day} {model} {key} {project}".strip(),
                f"{requests or 0} requests for {amount or 0}, the ledger has {theirs or 0} for "
                f"{their_amount or 0}",
            )
            for day, model, key, project, requests, amount, theirs, their_amount in cursor
        ]
