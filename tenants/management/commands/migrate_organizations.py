"""Bring the public schema and every organization's up to date."""

import os
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from tenants import blueprint
from tenants.models import Organization


class Command(BaseCommand):
    """`manage.py migrate_organizations --processes 4`; what is up to date is passed over."""

    help = (
        "Migrate the public schema, then every organization's that lacks a migration, several at a "
        "time. One that fails is named at the end, does not stop the others, and can be run again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """How many at a time."""
        parser.add_argument("--processes", type=int, default=os.cpu_count() or 2)
        parser.add_argument("--check", action="store_true", help="only say which are behind")

    def handle(self, *args: Any, **options: Any) -> None:
        """Migrate, and say what failed."""
        if options["processes"] < 1:
            raise CommandError("--processes must be at least 1.")
        if not options["check"]:
            call_command("migrate_schemas", shared=True, interactive=False, verbosity=0)
        rows = Organization.objects.filter(erased_at=None).order_by("pk")
        found = list(rows.values_list("schema_name", flat=True))
        behind = blueprint.behind(found)
        if options["check"]:
            self._say(behind)
            return
        failed = self._migrate(behind, options["processes"]) if behind else []
        for each in failed:
            self.stderr.write(f"{each.schema}: {each.error}")
        if failed:
            raise CommandError(f"{len(failed)} of {len(behind)} schemas could not be migrated.")
        self.stdout.write(f"{len(behind)} of {len(found)} schemas migrated, the rest were so.")

    def _migrate(self, behind: list[str], processes: int) -> list[blueprint.Migrated]:
        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        failed = []
        with Progress(*columns) as progress:
            task = progress.add_task("Schemas", total=len(behind))
            for done in blueprint.migrate_many(behind, processes=processes):
                progress.advance(task)
                if done.error:
                    failed.append(done)
        return failed

    def _say(self, behind: list[str]) -> None:
        for schema in behind:
            self.stdout.write(schema)
        if behind:
            raise CommandError(f"{len(behind)} schemas are behind.")
        self.stdout.write("Every schema is up to date.")
