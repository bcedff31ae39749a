"""What Schemathesis checks of every answer besides what the schema says; see test_openapi.py."""

import os
from typing import Any

import schemathesis

FOREIGN = tuple(word for word in os.environ.get("FOREIGN", "").split(",") if word)
"""Words that stand in everything of bob's, and in nothing that alice sends."""


@schemathesis.check
def nothing_of_bobs(
    ctx: schemathesis.CheckContext,
    response: schemathesis.Response,
    case: schemathesis.Case[Any],
) -> None:
    """No answer to alice holds a word of bob's."""
    shown = response.content.decode("latin1") + str(dict(response.headers))
    for word in FOREIGN:
        assert word not in shown, f"{word} of another organization's is in the answer"
