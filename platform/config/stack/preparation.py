"""What must be true before the processes start: schema, static files, model, demo organization.

The steps run in one child process, which imports Django once. `python -m config.stack.preparation`
is that child; a line that begins with `STEP` names the step that follows.
"""

import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from config.stack.screen import Screen

STEP = "::step "
_EMBEDDINGS = "Embedding model"
"""The platform starts without it: then nothing serves embeddings."""
_STEPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Database schema", ("migrate_organizations",)),
    ("Static files", ("collectstatic", "--noinput", "--verbosity=0")),
    ("Model", ("prepare_model",)),
    (_EMBEDDINGS, ("prepare_model", "--embedding")),
    ("Demo organization", ("seed_demo",)),
)


class PreparationFailed(Exception):
    """A step failed; the message ends with what it last said."""


def prepare(screen: Screen, *, environment: Mapping[str, str], root: Path, log: Path) -> None:
    """Run the steps and show their progress; raises `PreparationFailed`."""
    child = subprocess.Popen(
        [sys.executable, "-m", "config.stack.preparation"],
        cwd=root,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        _follow(child, screen, log)
    finally:
        if child.poll() is None:
            child.terminate()
        child.wait()


def _follow(child: "subprocess.Popen[str]", screen: Screen, log: Path) -> None:
    """Show the child's lines until it ends."""
    title, said = "Preparation", deque[str](maxlen=12)
    assert child.stdout is not None  # noqa: S101  a pipe was asked for
    with log.open("w") as file, ExitStack() as step:
        show: Callable[[str], None] = screen.say
        for line in child.stdout:
            file.write(line)
            file.flush()
            text = line.rstrip()
            if text.startswith(STEP):
                title = text.removeprefix(STEP)
                said.clear()
                step.close()
                show = step.enter_context(screen.step(title))
            elif text:
                said.append(text)
                show(text)
        if child.wait():
            raise PreparationFailed(
                "\n  ".join([f"{title} failed. {log} has all of it; it ends:", *said])
                + "\nMend that and run `make run` again; it goes on where it stopped."
            )


def main() -> None:
    """Run every step in this process."""
    import django
    from django.core.management import CommandError, call_command

    django.setup()
    for title, command in _STEPS:
        sys.stdout.write(f"{STEP}{title}\n")
        sys.stdout.flush()
        try:
            call_command(*command)
        except CommandError as error:
            sys.stdout.write(f"{error}\n")
            sys.stdout.flush()
            if title != _EMBEDDINGS:
                sys.exit(1)


if __name__ == "__main__":
    main()
