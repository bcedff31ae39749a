"""Compare the books of a month and print every row in which they disagree."""

from argparse import ArgumentTypeError
from collections.abc import Sequence
from datetime import date
from typing import IO, Any, cast

import orjson
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from rich import box
from rich.console import Console
from rich.table import Table

from analytics.reconciliation import Report, reconcile
from billing.months import month_of, parse_month
from tenants.models import Organization


class Command(BaseCommand):
    """`reconcile --month 2026-11`."""

    help = (
        "Compare history, ledger, credit counters, invoices and the payment provider of a month, "
        "organization by organization, and print the rows in which they disagree. Exits with 1 if "
        "there are any, or if the provider could not be asked."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Which month, whose, and how it is said."""
        parser.add_argument(
            "--month", type=_month, metavar="YYYY-MM", help="which month (default: this one)"
        )
        parser.add_argument("--organization", metavar="SLUG", help="one organization alone")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Compare, print, and fail on differences."""
        month = options["month"] or month_of(timezone.now())
        reports = [reconcile(each, month) for each in _organizations(options["organization"])]
        if options["json"]:
            self.stdout.write(orjson.dumps(_data(reports, month)).decode())
        else:
            self._print(reports, month)
        for report in reports:
            if report.unread:
                self.stderr.write(f"{report.organization}: {report.unread}")
        if any(report.differences or report.unread for report in reports):
            raise SystemExit(1)

    def _print(self, reports: Sequence[Report], month: date) -> None:
        width = None if self.stdout.isatty() else 120
        console = Console(file=cast(IO[str], self.stdout), width=width)
        differences = [each for report in reports for each in report.differences]
        rows = sum(report.requests for report in reports)
        console.print(
            f"{month:%Y-%m}: {len(reports):,} organizations, {rows:,} ledger rows, "
            f"{len(differences):,} differences"
        )
        if not differences:
            return
        table = Table("Organization", "Books", "Row", "Found", box=box.SIMPLE_HEAD)
        for each in differences:
            table.add_row(each.organization, each.kind.value, each.subject, each.found)
        console.print(table)


def _data(reports: Sequence[Report], month: date) -> dict[str, Any]:
    return {
        "month": f"{month:%Y-%m}",
        "organizations": len(reports),
        "requests": sum(report.requests for report in reports),
        "differences": [
            {
                "organization": each.organization,
                "kind": each.kind.value,
                "subject": each.subject,
                "found": each.found,
            }
            for report in reports
            for each in report.differences
        ],
    }


def _month(text: str) -> date:
    try:
        return parse_month(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def _organizations(slug: str | None) -> list[Organization]:
    if slug is None:
        return list(
            Organization.objects.filter(account__isnull=False, erased_at=None).order_by("slug")
        )
    found = list(Organization.objects.filter(slug=slug))
    if not found:
        raise CommandError(f"There is no organization {slug!r}.")
    return found
