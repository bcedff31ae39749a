"""Make an API key from the command line."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from tenants import keys
from tenants.models import Environment, Organization, Scope, every_scope


class Command(BaseCommand):
    """The key alone goes to standard output, so that it can be captured: `KEY=$(…)`."""

    help = "Make an API key for an organization and print it, this once."

    def add_arguments(self, parser: CommandParser) -> None:
        """Whose, its name, and what it may do."""
        parser.add_argument("--organization", required=True, metavar="SLUG")
        parser.add_argument("--name", required=True, help="what the key is for")
        parser.add_argument(
            "--scopes",
            nargs="+",
            choices=Scope.values,
            default=every_scope(),
            help=f"default: {' '.join(every_scope())}",
        )
        parser.add_argument(
            "--models", nargs="+", default=[], metavar="MODEL", help="default: every model"
        )
        parser.add_argument(
            "--environment", choices=Environment.values, default=Environment.LIVE.value
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Find the organization, mint, print."""
        organization = Organization.objects.filter(slug=options["organization"]).first()
        if organization is None:
            there = ", ".join(Organization.objects.values_list("slug", flat=True)) or "none yet"
            raise CommandError(f"No organization {options['organization']!r}; there are: {there}.")
        _, text = keys.mint(
            organization=organization,
            name=options["name"],
            environment=Environment(options["environment"]),
            scopes=[Scope(scope) for scope in options["scopes"]],
            models=options["models"],
        )
        self.stderr.write("Keep this key now: it is not shown again.", self.style.NOTICE)
        self.stdout.write(text)
