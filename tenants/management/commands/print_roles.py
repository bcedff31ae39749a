"""Print the table of permissions as a page of the documentation."""

from typing import Any

from django.core.management.base import BaseCommand

from tenants import roles


class Command(BaseCommand):
    """`manage.py print_roles > docs/roles.md`."""

    help = "Print who may do what, as Markdown: docs/roles.md."

    def handle(self, *args: Any, **options: Any) -> None:
        """To standard output."""
        self.stdout.write(roles.page(), ending="")
