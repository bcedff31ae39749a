"""Prepare a model for serving."""

import sys
from argparse import ArgumentTypeError, RawDescriptionHelpFormatter
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from inference.engine.prepare import PROVIDERS, QUANTIZATIONS, RECIPES, PrepareFailed, prepare
from inference.engine.prepare import Progress as Reported
from inference.engine.prepare.quality import read_quality

_HELP = """\
Prepare a model for serving: weights exported to ONNX, quantized and written below MODELS_DIR.

A model that is already there is left alone; a preparation that was cut off starts again; two at
once wait for each other. Nothing is downloaded: weights come from installed packages.

A report of quality is printed and stored beside the model. One whose perplexity rose by more than
3% is not published unless forced.

  manage.py prepare_model                                         the default model, 8 bit
  manage.py prepare_model smollm2-135m-instruct-onnx --quantize none   ONNX, in full precision
  manage.py prepare_model smollm2-135m-instruct-onnx --prune 0.1       a tenth of neurons out
  manage.py prepare_model smollm2-135m-instruct-torch                  for PyTorch: GPUs
  manage.py prepare_model --provider cuda                         for ONNX Runtime on a GPU, 16 bit
  manage.py prepare_model --embedding                             the default model of embeddings
  manage.py prepare_model echo                                    repeats its prompt; for tests
"""


class Command(BaseCommand):
    """Shows a bar on a terminal and a line a stage elsewhere."""

    help = _HELP
    requires_system_checks = ()

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Keep the help's line breaks."""
        return super().create_parser(
            prog_name, subcommand, formatter_class=RawDescriptionHelpFormatter, **kwargs
        )

    def add_arguments(self, parser: CommandParser) -> None:
        """Which model, and how."""
        parser.add_argument(
            "name",
            nargs="?",
            default=settings.DEFAULT_MODEL,
            metavar="NAME",
            help=f"one of: {', '.join(RECIPES)}; default: {settings.DEFAULT_MODEL}",
        )
        parser.add_argument(
            "--embedding",
            action="store_true",
            help=f"the default model of embeddings: {settings.DEFAULT_EMBEDDING_MODEL}",
        )
        parser.add_argument(
            "--quantize",
            choices=QUANTIZATIONS,
            help="int8: a quarter of the size; int4: an eighth; none: full precision. "
            "Default: the model's fastest",
        )
        parser.add_argument(
            "--prune",
            type=_share,
            default=0.0,
            metavar="SHARE",
            help="leave out this share of the feed-forward neurons, those that contribute least",
        )
        parser.add_argument(
            "--provider",
            choices=PROVIDERS,
            default="cpu",
            help="for which of ONNX Runtime's execution providers: cuda and tensorrt make a graph "
            "in 16 bit, in a folder of its own, NAME-cuda or NAME-tensorrt; that needs no GPU",
        )
        parser.add_argument(
            "--force", action="store_true", help="prepare it anew, and publish it whatever it lost"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Prepare, and say where it is."""
        console = Console(file=sys.stderr)
        try:
            with _bar(console) as bar:
                manifest = prepare(
                    settings.DEFAULT_EMBEDDING_MODEL if options["embedding"] else options["name"],
                    settings.MODELS_DIR,
                    quantization=options["quantize"],
                    pruned=options["prune"],
                    provider=options["provider"],
                    force=options["force"],
                    progress=_moving(bar) if console.is_terminal else self._lines(),
                )
        except PrepareFailed as error:
            raise CommandError(str(error)) from error
        folder = settings.MODELS_DIR / manifest.name
        size = sum(file.stat().st_size for file in folder.iterdir()) >> 20
        self.stdout.write(
            f"{manifest.name} version {manifest.version}, quantization {manifest.quantization}, "
            f"{size} MiB, in {folder}"
        )
        if quality := read_quality(folder):
            table = Table("quality", "")
            for row in quality.rows():
                table.add_row(*row)
            Console(file=self.stdout, width=80).print(table)  # type: ignore[arg-type]

    def _lines(self) -> Reported:
        """A line for each stage, and for each tenth of it."""
        said: set[tuple[str, int]] = set()

        def show(doing: str, share: float) -> None:
            if (doing, int(share * 10)) not in said:
                said.add((doing, int(share * 10)))
                self.stdout.write(f"{doing} ({share:.0%})")
                self.stdout.flush()

        return show


def _share(value: str) -> float:
    share = float(value)
    if not 0 <= share < 1:
        raise ArgumentTypeError(f"{value} is no share: from 0 to below 1")
    return share


def _moving(bar: Progress) -> Reported:
    task = bar.add_task("starting", total=1.0)
    return lambda doing, share: bar.update(task, description=doing, completed=share)


def _bar(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
