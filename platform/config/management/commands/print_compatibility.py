"""Print what becomes of OpenAI's parameters as a page of the documentation."""

from typing import Any

from django.core.management.base import BaseCommand

from config import compatibility


class Command(BaseCommand):
    """`manage.py print_compatibility > docs/compatibility.md`."""

    help = "Print endpoint by parameter what is supported, as Markdown: docs/compatibility.md."

    def handle(self, *args: Any, **options: Any) -> None:
        """To standard output."""
        self.stdout.write(compatibility.page(compatibility.schema()), ending="")
