"""Close a month and print its invoice; or print what it would say."""

from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping
from datetime import date, datetime
from functools import partial
from typing import IO, Any, cast

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from billing import closing
from billing.closing import Closed, Due
from billing.documents import measured, named
from billing.invoicing import (
    Draft,
    MonthClosed,
    as_draft,
    close_month,
    invoice_again,
    preview,
    shown,
)
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
        parser.add_argument(
            "--at-once",
            type=int,
            default=closing.AT_ONCE,
            metavar="N",
            help="with --all, months closed beside each other (default: %(default)s)",
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

        how.add_argument(
            "--again",
            action="store_true",
            help="with --organization, a new invoice, with the next number, of a closed month "
            "whose invoice is void",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Close, or look, organization by organization."""
        now = timezone.now()
        this = month_of(now)
        running = options["preview"] or options["early"]
        month = options["month"] or (this if running else month_before(this))
        width = None if self.stdout.isatty() else 100
        console = Console(file=cast(IO[str], self.stdout), width=width)
        close: Callable[..., Invoice]
        close = partial(close_month, early=options["early"], issue=not options["draft"])
        if options["again"]:
            if options["all"]:
                raise CommandError("--again is of one month of one --organization.")
            close = partial(invoice_again, issue=not options["draft"])
        if options["all"] and not options["preview"]:
            self._close_all(month, now, close, options["at_once"], console)
            return
        bill = _preview if options["preview"] else partial(_close, close=close)
        for organization in _organizations(options["organization"]):
            try:
                console.print(bill(organization, month, now))
            except MonthClosed as refusal:
                console.print(_standing(organization, month, refusal.message))
            except Refused as refusal:
                raise CommandError(f"{organization.name}: {refusal.message}") from refusal

    def _close_all(
        self,
        month: date,
        now: datetime,
        close: Callable[..., Invoice],
        at_once: int,
        console: Console,
    ) -> None:
        names = {each.pk: each.name for each in _organizations(None)}
        found: dict[int, Closed] = {}
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(f"Closing {month:%B %Y}", total=len(names))
            months = [Due(each, month) for each in names]
            for each in closing.close_all(months, now=now, close=close, at_once=at_once):
                found[each.due.organization] = each
                progress.advance(task)
        console.print(_outcomes(found, names, month))
        if failed := sum(each.error is not None for each in found.values()):
            raise CommandError(f"{failed} of {len(found)} months could not be closed.")


def _preview(organization: Organization, month: date, now: datetime) -> Table:
    draft = preview(organization=organization.pk, month=month, now=now)
    return _table(draft, f"Draft, still open: {organization.name}, {month:%B %Y}")


def _close(
    organization: Organization, month: date, now: datetime, *, close: Callable[..., Invoice]
) -> Table:
    invoice = close(organization=organization.pk, month=month, now=now)
    named = f"Invoice {invoice.number}" if invoice.number else "Draft"
    return _table(as_draft(invoice), f"{named}: {organization.name}, {month:%B %Y}")


def _outcomes(found: Mapping[int, Closed], names: Mapping[int, str], month: date) -> Table:
    """One line for each organization."""
    standing = {
        row.organization_id: row
        for row in Invoice.objects.across_organizations()
        .filter(month=month, kind=Invoice.Kind.INVOICE)
        .order_by("pk")
    }
    table = Table(title=f"{month:%B %Y}", box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("Organization", "Invoice", "Status"):
        table.add_column(name, overflow="fold")
    table.add_column("Exact", justify="right", no_wrap=True)
    table.add_column("Net", justify="right", no_wrap=True)
    for pk, each in sorted(found.items(), key=lambda pair: names[pair[0]]):
        row = standing.get(pk)
        if each.error is not None or row is None:
            table.add_row(names[pk], "", f"failed: {each.error}")
            continue
        table.add_row(
            names[pk],
            row.number or "",
            row.status if each.invoice else f"{row.status}, closed before",
            show(row.subtotal, row.currency),
            shown(row.total_minor, row.currency),
        )
    return table


def _standing(organization: Organization, month: date, message: str) -> Table:
    invoices = Invoice.objects.for_org(organization).filter(kind=Invoice.Kind.INVOICE)
    invoice = invoices.prefetch_related("lines").filter(month=month).latest("pk")
    named = f"Invoice {invoice.number or 'draft'}, {invoice.status}"
    title = f"{named}: {organization.name}, {month:%B %Y}. {message}"
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
