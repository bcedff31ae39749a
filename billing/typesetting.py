"""PDF by Typst: a template of ours, and data that it only ever shows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import typst
from django.conf import settings

_TEMPLATES = Path(settings.BASE_DIR) / "templates"


def pdf(template: str, data: Mapping[str, Any]) -> bytes:
    """The template, below templates/, with `data` as its input `data`, in JSON.

    Nothing in the data is markup: Typst sets strings as they are. Letters that Typst's own fonts
    lack come from the fonts of the system.
    """
    path = _TEMPLATES / template
    return typst.compile(
        path, root=path.parent, sys_inputs={"data": orjson.dumps(data).decode()}, format="pdf"
    )
