"""What every HTTP endpoint of the API shares: async dispatch, strict bodies, one error renderer.

OpenAI's error body answers under /v1, problem+json (RFC 9457) elsewhere.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import orjson
import psycopg
import structlog
from django.conf import settings
from django.db import DataError, InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from psycopg.errors import QueryCanceled, ReadOnlySqlTransaction
from pydantic import BaseModel, ValidationError
from redis.exceptions import RedisError
from rest_framework.views import APIView

from kit.errors import Invalid, Refused, Unavailable
from kit.threads import reading

Body = TypeVar("Body", bound=BaseModel)
log = structlog.get_logger()

_DEEPEST_JSON = 32
_AWAY = (OperationalError, InterfaceError, psycopg.OperationalError, psycopg.InterfaceError)
"""What PostgreSQL and the way there raise where it is down, full, hangs or has moved."""
_BRANCHES = frozenset({"str", "constrained-str", "int", "float", "bool", "none"})


class MethodNotAllowed(Refused):
    """The path exists, the method does not."""

    status, code = 405, "method_not_allowed"


class NotFound(Refused):
    """Nothing is here, or nothing that this caller may see."""

    status, code = 404, "not_found"


class TooLarge(Refused):
    """A body above the limit."""

    status, code = 413, "request_too_large"


class TooSlow(Refused):
    """A body that took too long to arrive."""

    status, code = 408, "request_timeout"


class Broken(Refused):
    """Our own fault; the log has the reason under the request id."""

    status, code = 500, "internal_error"


class QueryTimedOut(Refused):
    """The database was stopped: others wait for it too."""

    status, code = 503, "query_timed_out"


class Json(HttpResponse):
    """A JSON answer."""

    def __init__(
        self, data: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        content = orjson.dumps(data)
        super().__init__(
            content,
            status=status,
            content_type="application/json",
            headers={"Content-Length": str(len(content)), **(headers or {})},
        )


class Endpoint(APIView):
    """An async view: subclasses write `async def get(self, request, …)`, `post`, and so on.

    `before` runs first (authentication). Any `Refused` is rendered in the edge's own form.
    """

    async def before(self, request: HttpRequest) -> None:
        """Refuse the request, or note who makes it."""

    async def dispatch(  # type: ignore[override]
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        """Answer, whatever happens."""
        self.args, self.kwargs = args, kwargs
        try:
            handler = self._handler(request.method or "")
            await self.before(request)
            return await handler(request, *args, **kwargs)
        except Exception as error:
            return refused(request, refusal_of(error))

    def _handler(self, method: str) -> Callable[..., Awaitable[HttpResponseBase]]:
        handler = getattr(self, method.lower(), None) if method in self.allowed_methods else None
        if handler is None:
            allowed = ", ".join(m for m in self.allowed_methods if m != "OPTIONS")
            raise MethodNotAllowed(f"{method} is not served here; use {allowed}.")
        return handler  # type: ignore[no-any-return]

    async def options(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:  # type: ignore[override]
        """The methods served here."""
        return HttpResponse(status=204, headers={"Allow": ", ".join(self.allowed_methods)})


def refusal_of(error: Exception) -> Refused:
    """What whoever asked is told of what came instead of an answer, or in the middle of one."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, RedisError) or isinstance(error.__cause__, RedisError):
        log.warning("Redis does not answer", error=str(error))
        return Unavailable("The platform's state does not answer; try again.")
    if isinstance(error, DataError) and "NUL" in str(error):
        return Invalid("A text has a NUL character (U+0000), which nothing here can be; remove it.")
    if isinstance(error, _AWAY) or isinstance(error.__cause__, ReadOnlySqlTransaction):
        if isinstance(error.__cause__, QueryCanceled):
            return timed_out()
        log.warning("PostgreSQL does not answer", error=str(error))
        said = "The platform's database does not answer; try again."
        return Unavailable(said, retry_after=5.0)
    log.error("a request broke", exc_info=error)
    return Broken("Something broke on our side; the log has why, under this request's id.")


async def body(request: HttpRequest, form: type[Body]) -> Body:
    """The request's JSON as `form`, or a refusal that names the first field at fault."""
    raw = request.body
    if len(raw) > 65_536:
        return await reading(parse, raw, form)
    return parse(raw, form)


def parse(raw: bytes | str, form: type[Body]) -> Body:
    """JSON text as `form`; raises `Invalid` with the field and the fix."""
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"The body is not JSON: {error}.", param="body") from error
    if not isinstance(data, dict):
        raise Invalid('The body must be a JSON object, like {"model": …}.', param="body")
    if _deeper_than(data, _DEEPEST_JSON):
        raise Invalid(f"The body nests deeper than {_DEEPEST_JSON} levels.", param="body")
    return check(data, form)


def check(data: Mapping[str, Any], form: type[Body]) -> Body:
    """Decoded JSON as `form`; raises `Invalid` with the field and the fix."""
    try:
        return form.model_validate(data)
    except ValidationError as error:
        raise _invalid(error) from error


def refused(request: HttpRequest, refusal: Refused) -> HttpResponse:
    """A refusal as a response in the form of the path's edge."""
    request_id = str(getattr(request, "id", ""))
    status, headers, content = rendered(request.path, refusal, request_id)
    return HttpResponse(content, status=status, headers=headers)


def rendered(path: str, refusal: Refused, request_id: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a refusal, also for answers made outside Django."""
    headers = {**refusal.headers, "Content-Type": "application/json"}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(_whole(refusal.retry_after))
    if path.startswith("/v1"):
        return refusal.status, headers, orjson.dumps(openai_body(refusal))
    headers["Content-Type"] = "application/problem+json"
    return refusal.status, headers, orjson.dumps(problem_body(refusal, request_id))


def openai_body(refusal: Refused) -> dict[str, Any]:
    """OpenAI's error object (platform.openai.com/docs/guides/error-codes)."""
    return {
        "error": {
            "message": refusal.message,
            "type": _openai_type(refusal),
            "param": refusal.param,
            "code": refusal.code,
        }
    }


def problem_body(refusal: Refused, request_id: str) -> dict[str, Any]:
    """RFC 9457's problem object; our extensions are code, field, request id and seconds to wait.

    Events and messages have no Retry-After header."""
    problem: dict[str, Any] = {
        "type": "about:blank",
        "title": refusal.code.replace("_", " ").capitalize(),
        "status": refusal.status,
        "detail": refusal.message,
        "code": refusal.code,
        "request_id": request_id,
    }
    if refusal.retry_after is not None:
        problem["retry_after"] = _whole(refusal.retry_after)
    return problem | ({"param": refusal.param} if refusal.param else {})


def _whole(seconds: float) -> int:
    """As Retry-After says it: rounded up, at least one."""
    return max(1, math.ceil(seconds))


def _openai_type(refusal: Refused) -> str:
    if refusal.status >= 500:
        return "server_error"
    kinds = {401: "authentication_error", 402: "insufficient_quota", 403: "permission_error"}
    kinds[429] = "rate_limit_error"
    return kinds.get(refusal.status, "invalid_request_error")


def _invalid(error: ValidationError) -> Invalid:
    first = _deepest(error.errors(include_url=False, include_context=False))
    field = _named(first["loc"]) or "body"
    if first["type"] == "extra_forbidden":
        return Invalid(f"Unknown field {field!r}; remove it or check its spelling.", param=field)
    if first["type"] == "missing":
        return Invalid(f"The field {field!r} is required.", param=field)
    message, given = str(first["msg"]).removeprefix("Value error, "), first.get("input")
    if not first["loc"]:
        named, _, rest = message.partition(": ")
        if isinstance(given, dict) and named in given:
            field, message, given = named, rest, given[named]
    return Invalid(f"{field}: {message} (got {_shown(given)}).", param=field)


def _deepest(errors: Sequence[Any]) -> Any:
    """The first of them; where that is a value that fits none of several types, of the one it fits
    best: not that it is no text, but that a list is too long, or which entry is wrong."""
    field = _named(errors[0]["loc"])
    return max(
        (each for each in errors if f"{_named(each['loc'])}.".startswith(f"{field}.")),
        key=lambda each: (not each["type"].endswith("_type"), len(each["loc"])),
    )


def _named(loc: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in loc if not _is_branch(part))


def _is_branch(part: int | str) -> bool:
    """Whether pydantic names a union's branch there (`stop.list[str].0`), not a field."""
    return isinstance(part, str) and ("[" in part or part in _BRANCHES)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _deeper_than(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    if levels == 0:
        return True
    inner = value.values() if isinstance(value, dict) else value
    return any(_deeper_than(each, levels - 1) for each in inner)


def timed_out() -> QueryTimedOut:
    """Of what `kit.statements` bounds."""
    return QueryTimedOut(
        f"The database would take longer than {settings.MANAGEMENT_SECONDS} s for this; ask for "
        "less: a shorter time, fewer groups, a smaller page.",
        retry_after=5.0,
    )


def too_large(size: int, limit: int) -> TooLarge:
    """A refusal of a body of at least `size` bytes."""
    return TooLarge(f"The body has {size:,} bytes or more; {limit:,} is the limit.")
