"""Price a month's usage again and print the difference."""

from argparse import ArgumentTypeError
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import IO, Any, cast

import orjson
from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich import box
from rich.console import Console
from rich.table import Table

from billing.models import Account
from billing.months import parse_month
from billing.rerating import Lists, Rerated, rerate
from kit.errors import Refused
from kit.money import show


class Command(BaseCommand):
    """`rerate --month 2026-11 --prices new.json`."""

    help = (
        "Replay a month's usage and print, by organization and model, what was booked and what "
        "it comes to: under the price lists it was booked under (then nothing may differ, and "
        "the command exits with 1 if something does), or under those of a file. Nothing changes."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Which month, whose, under which prices."""
        parser.add_argument("--month", type=_month, required=True, metavar="YYYY-MM")
        parser.add_argument("--organization", metavar="SLUG", help="one organization alone")
        parser.add_argument(
            "--prices",
            type=Path,
            metavar="FILE",
            help='JSON: {"a-model": {"input_tokens": 150000000, …}, …}, nanos for a million',
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Replay, print, and fail where a row isn't what its own prices make of it."""
        lists = _lists(options["prices"])
        found: list[tuple[str, Rerated]] = []
        for account in _accounts(options["organization"]):
            slug, key = account.organization.slug, account.organization_id
            try:
                rows = rerate(organization=key, month=options["month"], lists=lists)
            except Refused as refusal:
                raise CommandError(refusal.message) from refusal
            found += [(slug, row) for row in rows]
        width = None if self.stdout.isatty() else 120
        console = Console(file=cast(IO[str], self.stdout), width=width)
        console.print(_table(found, f"{options['month']:%Y-%m}"))
        if lists is None and any(row.changed for _, row in found):
            raise SystemExit(1)


def _table(found: Sequence[tuple[str, Rerated]], title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("Organization", "Model"):
        table.add_column(name, overflow="fold")
    for name in ("Requests", "Changed", "Booked", "Rerated", "Difference"):
        table.add_column(name, justify="right", no_wrap=True)
    for slug, row in found:
        amounts = (row.booked, row.rerated, row.difference)
        table.add_row(
            slug,
            row.model,
            f"{row.requests:,}",
            f"{row.changed:,}",
            *(show(nanos, row.currency) for nanos in amounts),
        )
    return table


def _lists(path: Path | None) -> Lists | None:
    if path is None:
        return None
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise CommandError(f"{path}: {error}") from error
    if not isinstance(found, dict):
        raise CommandError(f"{path}: an object of models and their rates is wanted.")
    return found


def _month(text: str) -> date:
    try:
        return parse_month(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def _accounts(slug: str | None) -> list[Account]:
    accounts = Account.objects.across_organizations().select_related("organization")
    if slug is None:
        return list(accounts.order_by("organization__slug"))
    found = list(accounts.filter(organization__slug=slug))
    if not found:
        raise CommandError(f"There is no organization {slug!r} with an account.")
    return found
