"""What Schemathesis checks of every answer besides what the schema says; see test_openapi.py."""

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any
from zlib import crc32

import httpx
import schemathesis

FOREIGN = tuple(word for word in os.environ.get("FOREIGN", "").split(",") if word)
"""Words that stand in everything of bob's, and in nothing that alice sends."""
SEEN = os.environ.get("SEEN")
"""A file for the status of every answer, a line each."""
OWN_LOGIN = os.environ.get("OWN_LOGIN", "")
"""The log-in that everything is asked by: ended, all else would be refused, which passes."""
ALICES = json.loads(os.environ.get("ALICES", "{}"))
"""Things that are there, by how their paths begin: values of a path's names, and such as may go."""
EACH = int(os.environ.get("EACH", "1"))
"""One in so many is sent of what the coverage phase makes wrong on purpose."""
_FRESH_SECONDS = 240
_MOST_TEXTS = 200
_made: Counter[str] = Counter()


class Token:
    """The own access token, which lives ten minutes, renewed in time."""

    first = os.environ.get("ACCESS", "")
    now = first
    refresh = os.environ.get("REFRESH", "")
    due = time.monotonic() + _FRESH_SECONDS

    @classmethod
    def put(cls, headers: Any) -> None:
        """Into these headers, where the first one is in them."""
        if not cls.first or not headers or headers.get("Authorization") != f"Bearer {cls.first}":
            return
        if time.monotonic() > cls.due:
            url = f"{os.environ['PLATFORM']}/api/v1/auth/refresh"
            answer = httpx.post(url, json={"refresh": cls.refresh}, timeout=60).json()
            cls.now, cls.refresh = answer["access"], answer["refresh"]
            cls.due = time.monotonic() + _FRESH_SECONDS
        headers["Authorization"] = f"Bearer {cls.now}"


@schemathesis.hook
def filter_case(ctx: Any, case: schemathesis.Case[Any]) -> bool:
    """Several operations have one form in common: each sends others of its wrong ones. And where
    few are sent, two that have 2,048 texts embedded would take a third of all the time."""
    meta = case.meta
    given = case.body.get("input") if isinstance(case.body, dict) else None
    if EACH > 1 and isinstance(given, list) and len(given) > _MOST_TEXTS:
        return False
    if (
        meta is None
        or meta.phase.name.value != "coverage"
        or meta.generation.mode == schemathesis.GenerationMode.POSITIVE
    ):
        return True
    label = case.operation.label
    _made[label] += 1
    return (_made[label] + crc32(label.encode())) % EACH == 0


@schemathesis.hook
def before_call(ctx: Any, case: schemathesis.Case[Any], kwargs: dict[str, Any]) -> None:
    """Leave the own log-in open; and name things that are there, where names are made up."""
    for headers in (kwargs.get("headers"), case.headers):
        Token.put(headers)
    parameters = case.path_parameters or {}
    if OWN_LOGIN and OWN_LOGIN in map(str, parameters.values()):
        case.path_parameters = dict.fromkeys(parameters, "another")
    meta = case.meta
    if (
        not parameters
        or meta is None
        or meta.generation.mode != schemathesis.GenerationMode.POSITIVE
    ):
        return
    if meta.phase.name.value in {"examples", "coverage"}:
        for start, (stays, goes) in ALICES.items():
            if case.operation.path.startswith(start):
                real = goes if case.method == "DELETE" else stays
                case.path_parameters = {
                    name: real.get(name, parameters[name]) for name in parameters
                }


@schemathesis.check
def nothing_of_bobs(
    ctx: schemathesis.CheckContext,
    response: schemathesis.Response,
    case: schemathesis.Case[Any],
) -> None:
    """No answer to alice holds a word of bob's."""
    if SEEN and case.method == case.operation.method.upper():
        with Path(SEEN).open("a") as file:
            file.write(f"{response.status_code} {case.operation.label}\n")
    shown = response.content.decode("latin1") + str(dict(response.headers))
    for word in FOREIGN:
        assert word not in shown, f"{word} of another organization's is in the answer"
