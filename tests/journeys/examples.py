"""The examples of docs/quickstart.md."""

import re
from pathlib import Path

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "quickstart.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples(language: str) -> list[str]:
    """Those in a language, in their order."""
    return [text for name, text in _BLOCK.findall(_PAGE.read_text()) if name == language]
