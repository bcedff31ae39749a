"""What an answer said and how it ended, whether it came whole or as events."""

import json
import re
from dataclasses import dataclass
from typing import Any

UNDECIDED = frozenset({408, 429, 503, 504})
"""Statuses that say "not now", whoever asks."""
_WHOLE = frozenset({"stop", "length"})


BROKEN = "internal_error"
"""The code of an error of the platform's own, which is nobody's to see."""


class Unanswered(Exception):
    """No answer came, for the reason that it says: nothing to be searched for a canary."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A text, and why it ended; "" where its end was never told."""

    text: str
    reason: str
    error: str = ""

    def checked(self) -> str:
        """The text of an answer that came to its own end. Raises `Unanswered`."""
        if self.error or self.reason not in _WHOLE:
            raise Unanswered(self.error or f"ended {self.reason or 'without a word'}")
        return self.text


def streamed(events: str) -> Answer:
    """The answer of a stream of events, ours or OpenAI's."""
    said, reason, error = [], "", ""
    for line in events.splitlines():
        if not line.startswith("data: {"):
            continue
        data = json.loads(line[6:])
        choice = (data.get("choices") or [{}])[0]
        said.append(data.get("text") or choice.get("delta", {}).get("content") or "")
        reason = data.get("finish_reason") or choice.get("finish_reason") or reason
        error = _error(data) or error
    return Answer("".join(said), reason, error)


def whole(text: str) -> Answer:
    """The answer of a body of JSON, of `/api/v1/infer`, a request's or OpenAI's."""
    data = json.loads(text)
    choice = (data.get("choices") or [{}])[0]
    said = data.get("text") or choice.get("message", {}).get("content") or ""
    reason = data.get("finish_reason") or choice.get("finish_reason") or ""
    return Answer(said, reason, _error(data))


def request_id(events: str) -> str:
    """Of the request that a stream of events answers; "" where it does not say."""
    found = re.search(r'"request_id":"([0-9a-f-]{36})"', events)
    return found[1] if found else ""


def code(text: str) -> str:
    """Of a refusal."""
    found = re.search(r'"code":"(\w+)"', text)
    return found[1] if found else "?"


def _error(data: dict[str, Any]) -> str:
    """The code of an event that tells of an error, ours (a problem) or OpenAI's."""
    told = data.get("error") or (data if "code" in data and "status" in data else None)
    if not told:
        return ""
    return str(told.get("code") or "error") if isinstance(told, dict) else str(told)
