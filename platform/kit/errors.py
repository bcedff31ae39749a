"""The one hierarchy of refusals: what a caller did that we will not do, and how to mend it.

A refusal stands beside the code that refuses; each edge (OpenAI's error body on /v1, problem+json
on /api, WebSocket messages) renders every subclass with one function.
"""

from collections.abc import Mapping
from random import random
from typing import ClassVar

_UNAVAILABLE = 503
_SOON = 1.0
"""In seconds, where whoever refuses knows no better."""


def spread(seconds: float) -> float:
    """When to come back, from so many seconds on to twice as many: for what many are told at once,
    who shall not all come at once."""
    return seconds * (1 + random())  # noqa: S311  no secret


class Refused(Exception):
    """A request that is answered with an error of the caller's making (or of our state).

    Subclasses set `status` (an HTTP status) and `code` (a stable, machine-readable word). The
    message says what was wrong, which value, and what to do. `param` names the offending field.
    `retry_after` is in seconds and true: a retry after it can succeed. A 503 always has one.
    `headers` go with the answer over HTTP.
    """

    status: ClassVar[int] = 400
    code: ClassVar[str] = "invalid_request"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if retry_after is None and self.status == _UNAVAILABLE:
            retry_after = _SOON
        self.retry_after = retry_after
        self.headers = dict(headers or {})


class Invalid(Refused):
    """A value that does not fit; `param` names the field."""

    status, code = 400, "invalid_value"


class Unavailable(Refused):
    """A part of the platform that cannot answer now; nothing was charged."""

    status, code = 503, "unavailable"
