"""`manage.py create_organization`: a customer, with its schema and an account."""

from decimal import Decimal, InvalidOperation
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing.models import Account
from kit.money import NANOS
from tenants.models import Organization


class Command(BaseCommand):
    """Makes the row, the schema and the account."""

    help = "Create an organization: its schema is made at once, and an account with a credit limit."

    def add_arguments(self, parser: CommandParser) -> None:
        """Name and credit."""
        parser.add_argument("slug", help="lower-case letters, digits and hyphens; names the schema")
        parser.add_argument("--name", help="what people read (the slug)")
        parser.add_argument("--credit", default="100", help="the most that may be owed (100)")
        parser.add_argument("--currency", default="EUR", help="ISO 4217 (EUR)")

    def handle(self, *args: Any, **options: Any) -> None:
        """Create it, or say what is wrong."""
        slug = options["slug"]
        try:
            credit = int(Decimal(options["credit"]) * NANOS)
        except InvalidOperation as error:
            raise CommandError(f"--credit must be an amount, not {options['credit']!r}.") from error
        organization = Organization(slug=slug, name=options["name"] or slug)
        account = Account(currency=options["currency"], credit_limit=credit)
        try:
            organization.full_clean(exclude=["schema_name"])
            account.full_clean(exclude=["organization"])
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from error
        organization.save()
        account.organization = organization
        account.save()
        self.stdout.write(f"The organization {slug} is ready.")
