"""Write everything that an organization owns into a zip."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from analytics import archive
from tenants import audit
from tenants.audit import Change
from tenants.models import Organization


class Command(BaseCommand):
    """`manage.py export_organization acme acme.zip`; the file is in the clear."""

    help = (
        "Write all that an organization owns as a zip of JSON lines with a manifest of checksums."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Whose, and whereto."""
        parser.add_argument("slug")
        parser.add_argument("file", type=Path, help="must not exist yet")

    def handle(self, *args: Any, **options: Any) -> None:
        """Write it, or say why not."""
        slug, path, now = options["slug"], options["file"], timezone.now()
        organization = Organization.objects.filter(slug=slug, erased_at=None).first()
        if organization is None:
            raise CommandError(f"There is no organization {slug!r}.")
        try:
            with path.open("xb") as out:
                path.chmod(0o600)
                files = archive.write(organization, out, now=now)
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}.") from error
        change = Change("export.written", f"organization:{slug}", after={"file": str(path)})
        audit.record(change, by=audit.SYSTEM, organization=organization.pk, now=now)
        for each in files:
            self.stdout.write(f"{each.rows:>10,}  {each.name}")
