"""`manage.py seed_demo`: the demo organization, its people, key, credit and priced model."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from config.demo import seed
from inference.engine.manifest import NotPrepared


class Command(BaseCommand):
    """Makes what is missing; again, it changes nothing."""

    help = (
        "Make the organization `demo` with an owner, an operator, an API key, credit and the "
        "default model. Log-ins and key are written to var/demo.json, readable by you alone. "
        "Run again, it makes only what is missing."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        """Seed, and say where the secrets are."""
        path = settings.VAR_DIR / "demo.json"
        try:
            seed(path)
        except NotPrepared as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"The organization demo is ready; its log-ins and key are in {path}.")
