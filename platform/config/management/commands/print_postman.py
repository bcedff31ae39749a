"""Print the API as a Postman collection."""

from typing import Any

from django.core.management.base import BaseCommand

from config import compatibility, postman


class Command(BaseCommand):
    """`manage.py print_postman > docs/postman_collection.json`."""

    help = "Print the API as a Postman collection: docs/postman_collection.json."

    def handle(self, *args: Any, **options: Any) -> None:
        """To standard output."""
        self.stdout.write(postman.collection(compatibility.schema()).decode(), ending="")
