"""Key-encryption keys and data keys: made, renewed, rotated, shown."""

import base64
import secrets
from collections import Counter
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from rich.progress import Progress

from kit import keepers
from kit.keepers import KeeperFailed
from kit.keepers.local import of_text
from tenants import audit, datakeys
from tenants.audit import Change
from tenants.models import DataKey, Organization


class Command(BaseCommand):
    """`manage.py keys rotate` runs beside the platform, and again where it was stopped."""

    help = (
        "generate: print a key for KEY_ENCRYPTION_KEYS; rotate: put every data key under the first "
        "key of KEY_ENCRYPTION; renew SLUG: a new data key for an organization ('platform' for the "
        "platform's own); list: how many data keys are under which key."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """What to do, and to whom."""
        parser.add_argument("what", choices=("generate", "rotate", "renew", "list"))
        parser.add_argument("slug", nargs="?", help="renew: whose data key")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it, or say what is wrong."""
        try:
            getattr(self, f"_{options['what']}")(options["slug"])
        except KeeperFailed as error:
            raise CommandError(str(error)) from error

    def _generate(self, _: str | None) -> None:
        known = of_text(settings.KEY_ENCRYPTION_KEYS, "") if settings.KEY_ENCRYPTION_KEYS else {}
        number = 1 + max((int(each) for each in known if each.isdigit()), default=0)
        self.stdout.write(f"{number}:{base64.b64encode(secrets.token_bytes(32)).decode()}")

    def _rotate(self, _: str | None) -> None:
        keepers.check()
        now, total = timezone.now(), DataKey.objects.across_organizations().count()
        with Progress(transient=True) as progress:
            task = progress.add_task("Data keys", total=total)
            moved = datakeys.rewrap(now=now, each=lambda: progress.advance(task))
        if moved:
            change = Change("key_encryption.rotated", "key_encryption", after={"data_keys": moved})
            audit.record(change, by=audit.SYSTEM, organization=None, now=now)
        self.stdout.write(f"{moved} of {total} data keys put under the newest key.")

    def _renew(self, slug: str | None) -> None:
        organization = datakeys.PLATFORM
        if slug != "platform":
            found = Organization.objects.filter(slug=slug, erased_at=None).first()
            if found is None:
                raise CommandError(
                    f"There is no organization {slug!r}; write its slug after renew."
                )
            organization = int(found.pk)
        version = datakeys.renew(organization, now=timezone.now())
        self.stdout.write(f"The data key {version} of {slug} seals from now on; older ones open.")

    def _list(self, _: str | None) -> None:
        rows = DataKey.objects.across_organizations().order_by("id")
        counts = Counter(
            wrapped.rpartition(":")[0] for wrapped in rows.values_list("wrapped", flat=True)
        )
        for under, count in sorted(counts.items()):
            self.stdout.write(f"{under}  {count}")
