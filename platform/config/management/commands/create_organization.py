"""`manage.py create_organization`: a customer, with its schema and an account."""

import time
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing import customers
from billing.customers import Terms
from kit.errors import Refused
from kit.money import NANOS
from tenants import schemas
from tenants.models import Organization, User

_PATIENCE = 300
"""Seconds that another may take to make the schema."""


class Command(BaseCommand):
    """Makes the row, the account and the schema, as the portal does."""

    help = "Create an organization: its schema is made at once, and an account with a credit limit."

    def add_arguments(self, parser: CommandParser) -> None:
        """Name and credit."""
        parser.add_argument("slug", help="lower-case letters, digits and hyphens; names the schema")
        parser.add_argument("--name", help="what people read (the slug)")
        parser.add_argument("--owner", help="e-mail address of the person who owns it (nobody)")
        parser.add_argument("--credit", default="100", help="the most that may be owed (100)")
        parser.add_argument("--currency", default="EUR", help="ISO 4217 (EUR)")

    def handle(self, *args: Any, **options: Any) -> None:
        """Create it, or say what is wrong."""
        slug, now = options["slug"], datetime.now(UTC)
        try:
            credit = int(Decimal(options["credit"]) * NANOS)
        except (InvalidOperation, ValueError, OverflowError) as error:
            raise CommandError(f"--credit must be an amount, not {options['credit']!r}.") from error
        try:
            organization = customers.found(
                slug=slug,
                name=options["name"] or slug,
                owner=_person(options["owner"]),
                terms=Terms(options["currency"], credit),
                now=now,
            )
        except Refused as refusal:
            raise CommandError(refusal.message) from refusal
        if not schemas.make(organization.pk, now=now):
            _await(organization.pk)  # Beat found it first.
        self.stdout.write(f"The organization {slug} is ready.")


def _await(organization: int) -> None:
    until = time.monotonic() + _PATIENCE
    while not Organization.objects.filter(pk=organization).exclude(ready_at=None).exists():
        if time.monotonic() > until:
            raise CommandError("The schema is not there yet; a worker goes on with it.")
        time.sleep(0.2)


def _person(email: str | None) -> User | None:
    if not email:
        return None
    user = User.objects.filter(email=User.objects.normalize_email(email)).first()
    if user is None:
        raise CommandError(f"Nobody has the address {email}; they register first.")
    return user
