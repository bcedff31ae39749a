"""Check the audit log, or anchor its heads now."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from tenants import anchors, audit
from tenants.anchors import AnchorsMissing


class Command(BaseCommand):
    """`manage.py audit verify` ends with 1 where anything is wrong."""

    help = "verify: check every chain against itself and its anchors; anchor: write the heads down."

    def add_arguments(self, parser: CommandParser) -> None:
        """What to do."""
        parser.add_argument("what", choices=("verify", "anchor"))
        parser.add_argument(
            "--anew", action="store_true", help="anchor: begin another file, the old one is lost"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Say each flaw, or that there is none."""
        if options["what"] == "anchor":
            try:
                moved = anchors.anchor(now=timezone.now(), anew=options["anew"])
            except AnchorsMissing as error:
                raise CommandError(str(error)) from error
            self.stdout.write(f"{moved} heads anchored")
            return
        flaws = list(anchors.verify(now=timezone.now()))
        for flaw in flaws:
            whose = "platform" if flaw.chain == audit.PLATFORM else f"organization {flaw.chain}"
            self.stdout.write(f"{whose}, entry {flaw.sequence}: {flaw.what}")
        if flaws:
            raise CommandError(f"The audit log is not whole: {len(flaws)} flaws.")
        self.stdout.write(f"{len(audit.chains())} chains whole")
