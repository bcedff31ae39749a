#!/usr/bin/env python
"""Run any management command: `.venv/bin/python manage.py help`."""

import os
import sys
from pathlib import Path


def main() -> None:
    """Hand the command line to Django, with the source roots on the path."""
    root = Path(__file__).resolve().parent
    sys.path[:0] = [str(root), str(root / "platform")]
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
