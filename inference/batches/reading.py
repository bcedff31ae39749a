"""A batch's input file: JSON lines, each a request to the batch's endpoint."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from inference.batches import files
from inference.batches.batch import Asked
from inference.batches.models import Batch, StoredFile

MOST_LINES = 50_000
_MOST_ERRORS = 20
_LONGEST_NAME = 256
_KNOWN = {"custom_id", "method", "url", "body"}


class Unfit(Exception):
    """A file that no batch can be made of; `errors` in OpenAI's form, by line."""

    def __init__(self, errors: list[Mapping[str, Any]]) -> None:
        super().__init__(f"{len(errors)} lines are wrong")
        self.errors = errors


def lines_of(batch: Batch, file: StoredFile) -> list[Asked]:
    """Its lines. Raises `Unfit` with the first that are wrong."""
    found: list[Asked] = []
    errors: list[Mapping[str, Any]] = []
    names: set[str] = set()
    for number, line in enumerate(_split(files.content(file)), 1):
        if not line.strip():
            continue
        if len(found) >= MOST_LINES:
            errors.append(_error(number, "too_many_lines", f"There are more than {MOST_LINES:,}."))
            break
        asked = _asked(line, batch.endpoint, names)
        if isinstance(asked, Asked):
            found.append(asked)
            names.add(asked.custom_id)
        else:
            errors.append(_error(number, *asked))
        if len(errors) >= _MOST_ERRORS:
            break
    if not found and not errors:
        errors.append(_error(None, "empty_file", "The file has no lines."))
    if errors:
        raise Unfit(errors)
    return found


def _asked(line: bytes, endpoint: str, names: set[str]) -> Asked | tuple[str, ...]:
    """A line, or what is wrong with it: code, message, and field."""
    try:
        data = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return "invalid_json_line", f"The line is not JSON: {error}."
    if not isinstance(data, dict):
        return "invalid_json_line", "The line must be a JSON object."
    if unknown := sorted(data.keys() - _KNOWN):
        return "unknown_field", f"Unknown field {unknown[0][:80]!r}.", unknown[0][:80]
    return _unnamed(data.get("custom_id"), names) or _request(data, endpoint)


def _unnamed(name: object, names: set[str]) -> tuple[str, ...] | None:
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or "\0" in name:
        return "invalid_custom_id", f"1 to {_LONGEST_NAME} characters are needed.", "custom_id"
    if name in names:
        return "duplicate_custom_id", f"{name[:80]!r} came before.", "custom_id"
    return None


def _request(data: Mapping[str, Any], endpoint: str) -> Asked | tuple[str, ...]:
    if data.get("method") != "POST":
        return "invalid_method", "The method must be POST.", "method"
    if data.get("url") != endpoint:
        return "mismatched_url", f"The batch is of {endpoint}; so must the url be.", "url"
    if not isinstance(data.get("body"), dict):
        return "invalid_body", "The body must be a JSON object.", "body"
    return Asked(data["custom_id"], orjson.dumps(data["body"]))


def _error(line: int | None, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    return {"code": code, "line": line, "message": message, "param": param}


def _split(parts: Iterator[bytes]) -> Iterator[bytes]:
    held = b""
    for part in parts:
        *whole, held = (held + part).split(b"\n")
        yield from whole
    if held:
        yield held
