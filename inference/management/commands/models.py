"""The catalog from a terminal: models added, prepared, priced, published, retired, aliased."""

from argparse import RawDescriptionHelpFormatter
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from rich.console import Console
from rich.table import Table

from billing.models import Meter, PriceVersion
from billing.prices import rates_problem
from inference.catalog import registry
from inference.catalog.models import Alias, Model
from inference.catalog.shadows import COLUMNS, compared
from kit import money
from kit.errors import Refused
from tenants.audit import SYSTEM, Change, record

_HELP = """\
The models on offer.

  manage.py models list
  manage.py models prepare smollm2-135m-instruct-onnx            as prepare_model does
  manage.py models add small-2 --folder smollm2-135m-instruct-onnx --title "Small, 2nd"
  manage.py models add far --remote-url https://host/v1 --remote-model big \\
                            --version 1 --context 8192
  manage.py models price small-2 EUR input_tokens=0.05 output_tokens=0.20    for a million
  manage.py models add acme-1 --folder smollm2-135m-instruct --dedicated-to acme
  manage.py models price acme-1 EUR device_seconds=500           EUR 1.80 an hour
  manage.py models publish small-2
  manage.py models alias small small-1=90 small-2=10             a tenth goes to the new version
  manage.py models alias small                                   the name stands for nothing more
  manage.py models shadow small-1 small-2=5                      answers 5 % again, to compare
  manage.py models shadow small-1                                no more
  manage.py models shadows                                       how they compare
  manage.py models retire small-1
"""
_FIELDS = ("folder", "title", "owner", "device", "version", "context", "adapter")
_REMOTE = ("remote_url", "remote_model", "remote_secret")


class Command(BaseCommand):
    """Each of its verbs is one change, audited."""

    help = _HELP

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Keep the help's line breaks."""
        return super().create_parser(
            prog_name, subcommand, formatter_class=RawDescriptionHelpFormatter, **kwargs
        )

    def add_arguments(self, parser: CommandParser) -> None:
        """A verb, and what it needs."""
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
        verbs.add_parser("list", help="what is there")
        add = verbs.add_parser("add", help="into the catalog, not published yet")
        add.add_argument("name")
        for field in (*_FIELDS, *_REMOTE):
            kind = int if field == "context" else str
            add.add_argument(f"--{field.replace('_', '-')}", type=kind)
        add.add_argument("--fallback", help="who serves while it is not healthy")
        add.add_argument("--plan", action="append", default=[], help="whose alone it is; repeated")
        add.add_argument(
            "--dedicated-to",
            metavar="ORGANIZATION",
            help="whose alone it is, by its slug: workers hold it for them, by the second",
        )
        prepare = verbs.add_parser("prepare", help="make its folder: see prepare_model --help")
        prepare.add_argument("name")
        prepare.add_argument("--quantize")
        prepare.add_argument("--provider", default="cpu")
        price = verbs.add_parser("price", help="what a million of each meter costs from now on")
        price.add_argument("name")
        price.add_argument("currency")
        price.add_argument("rates", nargs="+", metavar="METER=AMOUNT", help=", ".join(Meter))
        for verb, about in (("publish", "requests may name it"), ("retire", "no more new ones")):
            one = verbs.add_parser(verb, help=about)
            one.add_argument("name")
            one.add_argument("--force", action="store_true")
        shadow = verbs.add_parser("shadow", help="who answers a share of its requests again")
        shadow.add_argument("name")
        shadow.add_argument("target", nargs="?", default="", metavar="MODEL=PERCENT")
        shadows = verbs.add_parser("shadows", help="what shadows answered, beside their models")
        shadows.add_argument("--days", type=int, default=7)
        alias = verbs.add_parser("alias", help="a name that stands for models, by weight")
        alias.add_argument("name")
        alias.add_argument("targets", nargs="*", metavar="MODEL[=WEIGHT]")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it, or say what is wrong."""
        now = timezone.now()
        try:
            getattr(self, f"_{options['verb']}")(options, now)
        except Refused as refusal:
            raise CommandError(refusal.message) from refusal

    def _list(self, options: dict[str, Any], now: datetime) -> None:
        table = Table("model", "state", "backend", "version", "context", "aliases", "who may")
        rows = Model.objects.select_related("dedicated_to")
        for row in rows.prefetch_related("aliases__alias", "plans"):
            state = "published" if row.published else "draft"
            names = ", ".join(f"{each.alias} ({each.weight})" for each in row.aliases.all())
            plans = ", ".join(plan.name for plan in row.plans.all()) or "all"
            who = f"only {row.dedicated_to.slug}" if row.dedicated_to else plans
            prepared = state if row.is_prepared else f"{state}, not prepared"
            table.add_row(
                row.name, prepared, row.backend, row.version, f"{row.context:,}", names, who
            )
        Console(file=self.stdout, width=140).print(table)  # type: ignore[arg-type]

    def _add(self, options: dict[str, Any], now: datetime) -> None:
        names = [*_FIELDS, *(_REMOTE if options["remote_url"] else ())]
        fields = {name: options[name] for name in names if options[name] is not None}
        if options["remote_url"]:
            fields["backend"] = Model.Backend.REMOTE
        if options["fallback"]:
            fields["fallback"] = registry.one(options["fallback"])
        if options["dedicated_to"]:
            fields["dedicated_to"] = registry.owner(options["dedicated_to"])
        row = registry.add(
            options["name"], fields=fields, plans=options["plan"], now=now, by=SYSTEM
        )
        self.stdout.write(f"{row.name} is in the catalog; price it, then publish it.")

    def _prepare(self, options: dict[str, Any], now: datetime) -> None:
        how = {"quantize": options["quantize"], "provider": options["provider"]}
        call_command("prepare_model", options["name"], **how, stdout=self.stdout)

    def _price(self, options: dict[str, Any], now: datetime) -> None:
        row = registry.one(options["name"])
        rates = dict(map(_rate, options["rates"]))
        if problem := rates_problem(rates):
            raise CommandError(problem)
        price = PriceVersion(
            model=row.name, currency=options["currency"], rates=rates, effective_from=now
        )
        try:
            price.full_clean()
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from error
        price.save()
        facts = {"currency": price.currency, "rates": rates}
        change = Change("price.added", f"model:{row.name}", after=facts)
        record(change, by=SYSTEM, organization=None, now=now)
        self.stdout.write(f"{row.name} costs that from now on.")

    def _publish(self, options: dict[str, Any], now: datetime) -> None:
        registry.publish(options["name"], force=options["force"], now=now, by=SYSTEM)
        self.stdout.write(
            f"{options['name']} is published: requests may name it within 5 seconds, once a worker "
            "that was started since has loaded it."
        )

    def _retire(self, options: dict[str, Any], now: datetime) -> None:
        registry.retire(options["name"], force=options["force"], now=now, by=SYSTEM)
        self.stdout.write(f"{options['name']} takes no new requests; those that run go on.")

    def _alias(self, options: dict[str, Any], now: datetime) -> None:
        weights = dict(map(_weight, options["targets"]))
        registry.stand_for(options["name"], weights, now=now, by=SYSTEM)
        shown = ", ".join(f"{name} ({weight})" for name, weight in weights.items())
        gone = not Alias.objects.filter(name=options["name"]).exists()
        self.stdout.write(f"{options['name']} stands for {'nothing more' if gone else shown}.")

    def _shadow(self, options: dict[str, Any], now: datetime) -> None:
        name, (other, percent) = options["name"], _percent(options["target"])
        registry.shadow(name, other, percent, now=now, by=SYSTEM)
        self.stdout.write(
            f"{other} answers {percent:g} % of {name}'s requests again, within 5 seconds where "
            "workers have loaded it; others load it as they start."
            if other
            else f"Nothing answers {name}'s requests again."
        )

    def _shadows(self, options: dict[str, Any], now: datetime) -> None:
        table = Table(*COLUMNS)
        for each in compared(since=now - timedelta(days=options["days"])):
            table.add_row(*each.cells)
        Console(file=self.stdout, width=140).print(table)  # type: ignore[arg-type]


def _percent(text: str) -> tuple[str, float]:
    name, _, percent = text.partition("=")
    try:
        return name, float(percent) if name else 0.0
    except ValueError as error:
        raise CommandError(f"{text!r}: a share is a number of percent, like {name}=5.") from error


def _rate(text: str) -> tuple[str, int]:
    meter, _, amount = text.partition("=")
    try:
        return meter, money.parse(amount)
    except ValueError as error:
        raise CommandError(f"{text!r}: {error}") from error


def _weight(text: str) -> tuple[str, int]:
    name, _, weight = text.partition("=")
    if weight and not weight.isdecimal():
        raise CommandError(f"{text!r}: a weight is a whole number, like {name}=10.")
    return name, int(weight or 1)
