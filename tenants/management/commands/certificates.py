"""Keys that sign certificates of erasure; a certificate shown, or sent again."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from tenants import audit, certificates, erasure
from tenants.models import AuditEntry, Organization


class Command(BaseCommand):
    """`manage.py certificates rotate` voids nothing that was signed."""

    help = (
        "keys: print the public keys; rotate: sign with a new one from now on; show SLUG: print "
        "the certificate of an erased organization; send SLUG: mail it to its former owners again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """What to do, and whose."""
        parser.add_argument("what", choices=("keys", "rotate", "show", "send"))
        parser.add_argument("slug", nargs="?", help="show, send: the erased organization")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it, or say what is wrong."""
        match options["what"]:
            case "keys":
                for key in certificates.published(now=timezone.now()):
                    until = f" to {key.retired_at:%Y-%m-%d}" if key.retired_at else ", signing"
                    self.stdout.write(f"{key.public}  from {key.made_at:%Y-%m-%d}{until}")
            case "rotate":
                key = certificates.rotate(now=timezone.now(), by=audit.SYSTEM)
                self.stdout.write(f"{key.public} signs from now on.")
            case "show":
                shown = self._of(options["slug"], erasure.certificate_of)
                self.stdout.write(json.dumps(shown, indent=2, ensure_ascii=False))
            case _:
                sent = self._of(options["slug"], lambda found: erasure.tell(found.pk))
                self.stdout.write(f"{sent} letters sent.")

    def _of(self, slug: str | None, do: Any) -> Any:
        found = Organization.objects.filter(slug=slug).exclude(erased_at=None).first()
        if found is None:
            raise CommandError(f"There is no erased organization {slug!r}; write its slug.")
        try:
            return do(found)
        except AuditEntry.DoesNotExist as error:
            raise CommandError(f"No certificate of {slug!r} is in the audit log.") from error
