"""Erase an organization for good, and print the certificate."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from tenants import audit, erasure
from tenants.models import Organization


class Command(BaseCommand):
    """`manage.py erase_organization acme --really acme > certificate.json`."""

    help = (
        "Drop an organization's schema, destroy its data keys and its ways in, and print the "
        "signed certificate. The ledger, invoices and the audit log stay. It cannot be undone."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Which."""
        parser.add_argument("slug")
        parser.add_argument("--really", default="", help="the slug again")

    def handle(self, *args: Any, **options: Any) -> None:
        """Erase it, or say why not."""
        slug = options["slug"]
        organization = Organization.objects.filter(slug=slug).first()
        if organization is None:
            raise CommandError(f"There is no organization {slug!r}.")
        if options["really"] != slug:
            raise CommandError(f"This cannot be undone; add --really {slug}.")
        certificate = erasure.erase(organization, now=timezone.now(), by=audit.SYSTEM)
        self.stdout.write(json.dumps(certificate, indent=2, ensure_ascii=False))
