"""Compare invoices and payments with Stripe's."""

from typing import IO, Any, cast

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from rich import box
from rich.console import Console
from rich.table import Table

from billing import collecting, gateway
from billing.receivables import Collection, PaymentProfile
from billing.remote import Failed, Rejected, Unanswered
from billing.sync import Mismatch, compare


class Command(BaseCommand):
    """`stripe_sync --check`."""

    help = (
        "Compare invoices and payments with Stripe's, print what differs, and exit with 1 if "
        "something does. Without --check, every invoice that is not settled on both sides is "
        "looked at again first."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Whose; whether to compare alone."""
        parser.add_argument("--organization", metavar="SLUG", help="one organization alone")
        parser.add_argument("--check", action="store_true", help="change nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        """Compare, print, fail where the sides differ."""
        if not gateway.enabled():
            raise CommandError("There is no STRIPE_KEY: nothing to compare with.")
        profiles = PaymentProfile.objects.across_organizations().exclude(customer=None)
        if options["organization"]:
            profiles = profiles.filter(organization__slug=options["organization"])
            if not profiles.exists():
                raise CommandError(f"{options['organization']} is not known at Stripe.")
        try:
            if not options["check"]:
                _look_again()
            rows = list(profiles.select_related("organization").order_by("organization__slug"))
            found = [each for profile in rows for each in compare(profile)]
        except (Unanswered, Failed, Rejected) as error:
            raise CommandError(f"Stripe does not answer as it should: {error}") from error
        width = None if self.stdout.isatty() else 120
        console = Console(file=cast(IO[str], self.stdout), width=width)
        if found:
            console.print(_table(found))
        console.print(f"{len(rows)} organizations compared, {len(found)} differences.")
        if found:
            raise SystemExit(1)


def _look_again() -> None:
    now = timezone.now()
    collecting.wake(now=now, remote__isnull=False)
    waiting = Collection.objects.across_organizations().filter(next_at=now)
    for collection in waiting.values_list("pk", flat=True):
        collecting.advance(collection, now=now)


def _table(found: list[Mismatch]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("Organization", "What", "Here", "At Stripe"):
        table.add_column(name, overflow="fold")
    for each in found:
        table.add_row(each.organization, each.subject, each.ours, each.theirs)
    return table
