"""What the user sees: a spinner for the step under way, a line for each that is done."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console


class Screen:
    """A terminal, or a plain file that gets plain lines."""

    def __init__(self, console: Console | None = None) -> None:
        if console is None:
            sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
            console = Console(highlight=False, soft_wrap=True)
        self._console = console

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        """Show a long step; what it yields shows a detail of how far it is."""
        started = time.monotonic()
        if not self._console.is_terminal:
            self.say(f"… {title}")
            yield lambda detail: self.say(f"  {detail}")
        else:
            with self._console.status(title) as status:
                yield lambda detail: status.update(f"{title} [dim]{_escaped(detail)}[/dim]")
        self._console.print(f"[green]✓[/green] {title} ({time.monotonic() - started:.1f} s)")

    def say(self, text: str) -> None:
        """A line as it is."""
        self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """A line that should be read."""
        self._console.print(text, style="yellow", markup=False)

    def fail(self, text: str) -> None:
        """Why we stop, and what to do."""
        self._console.print(text, style="red", markup=False)


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")
