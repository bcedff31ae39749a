"""Close a month and print its invoice; or print what it would say."""

from argparse import ArgumentTypeError
from datetime import date, datetime
from functools import partial
from typing import IO, Any, cast

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from rich import box
from rich.console import Console
from rich.table import Table

from billing.documents import measured, named
from billing.invoicing import Draft, MonthClosed, as_draft, close_month, preview, shown
from billing.models import Invoice
from billing.months import month_before, month_of, parse_month
from kit.errors import Refused
from kit.money import show
from tenants.models import Organization


class Command(BaseCommand):
    """`close_month --organization demo`."""

    help = (
        "Close a month of an organization and print its invoice: by default the last month that "
        "ended. Its lines add up to the ledger to the nano; the total is rounded once, to the "
        "currency's smallest unit. A month is closed once; later calls print the invoice that "
        "stands."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Whose month, which, and how."""
        whose = parser.add_mutually_exclusive_group(required=True)
        whose.add_argument("--organization", metavar="SLUG", help="the organization's short name")
        whose.add_argument("--all", action="store_true", help="every organization with an account")
        parser.add_argument(
            "--month",
            type=_month,
            metavar="YYYY-MM",
            help="which month (default: the last that ended; with --preview or --early, this one)",
        )
        parser.add_argument(
            "--draft", action="store_true", help="leave the invoice a draft, to be issued later"
        )
        how = parser.add_mutually_exclusive_group()
        how.add_argument(
            "--preview", action="store_true", help="print what the invoice would say; close nothing"
        )
        how.add_argument(
            "--early",
            action="store_true",
            help="close the running month; what is used later is booked to the next",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Close, or look, organization by organization."""
        now = timezone.now()
        this = month_of(now)
        running = options["preview"] or options["early"]
        month = options["month"] or (this if running else month_before(this))
        close = partial(_close, early=options["early"], issue=not options["draft"])
        bill = _preview if options["preview"] else close
        width = None if self.stdout.isatty() else 100
        console = Console(file=cast(IO[str], self.stdout), width=width)
        for organization in _organizations(options["organization"]):
            try:
                console.print(bill(organization, month, now))
            except MonthClosed as refusal:
                console.print(_standing(organization, month, refusal.message))
            except Refused as refusal:
                raise CommandError(f"{organization.name}: {refusal.message}") from refusal


def _preview(organization: Organization, month: date, now: datetime) -> Table:
    draft = preview(organization=organization.pk, month=month, now=now)
    return _table(draft, f"Draft, still open: {organization.name}, {month:%B %Y}")


def _close(
    organization: Organization, month: date, now: datetime, *, early: bool, issue: bool
) -> Table:
    invoice = close_month(
        organization=organization.pk, month=month, now=now, early=early, issue=issue
    )
    named = f"Invoice {invoice.number}" if invoice.number else "Draft"
    return _table(as_draft(invoice), f"{named}: {organization.name}, {month:%B %Y}")


def _standing(organization: Organization, month: date, message: str) -> Table:
    invoices = Invoice.objects.for_org(organization).filter(kind=Invoice.Kind.INVOICE)
    invoice = invoices.prefetch_related("lines").get(month=month)
    title = f"Invoice: {organization.name}, {month:%B %Y}. {message}"
    return _table(as_draft(invoice), title)


def _month(text: str) -> date:
    try:
        return parse_month(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def _organizations(slug: str | None) -> list[Organization]:
    if slug is None:
        return list(Organization.objects.filter(account__isnull=False).order_by("slug"))
    found = list(Organization.objects.filter(slug=slug))
    if not found:
        raise CommandError(f"There is no organization {slug!r}.")
    return found


def _table(draft: Draft, title: str) -> Table:
    table = Table(
        title=title,
        box=box.SIMPLE_HEAD,
        show_footer=True,
        title_justify="left",
    )
    exact, rounded = show(draft.subtotal, draft.currency), shown(draft.total_minor, draft.currency)
    table.add_column("Model", "Total", overflow="fold")
    table.add_column("Meter")
    table.add_column("Units", justify="right")
    table.add_column("Exact", exact, justify="right", no_wrap=True)
    table.add_column("Invoiced", rounded, justify="right", no_wrap=True)
    for line in draft.lines:
        table.add_row(
            " · ".join(filter(None, [named(line), line.project or line.label])),
            measured(line),
            f"{line.units:,}",
            show(line.nanos, draft.currency),
            shown(line.minor, draft.currency),
        )
    return table
