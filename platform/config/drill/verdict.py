"""What must be true after a drill: every client's account against the books, and nothing left."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from config.drill.load import Heard
from config.stack.apart import Stack

_LEDGER = """
SELECT replace(request::text, '-', ''), (units->>'input_tokens')::int,
       (units->>'output_tokens')::int, amount FROM billing_ledgerentry
"""
_HISTORY = """
SELECT replace(id::text, '-', ''), prompt_tokens, completion_tokens, amount
FROM {schema}.inference_request
"""
_SPENT = "SELECT organization_id, sum(amount)::bigint FROM billing_ledgerentry GROUP BY 1"

Books = dict[str, tuple[int, int, int]]
"""By request: prompt tokens, completion tokens, nanos."""


@dataclass
class Verdict:
    """Counts, and every difference in words."""

    requests: int = 0
    tokens: int = 0
    breaks: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For a program that reads it."""
        return {
            "requests": self.requests,
            "tokens": self.tokens,
            "breaks": self.breaks,
            "ends": dict(self.ends),
            "differences": self.differences,
        }


def judge(stack: Stack, heard: Sequence[Heard], schemas: Sequence[str]) -> Verdict:
    """Compare what the clients heard with history, ledger and credit, and look for leftovers."""
    verdict = Verdict(requests=len(heard))
    ledger = _books(stack.rows(_LEDGER))
    history = _books([row for s in schemas for row in stack.rows(_HISTORY.format(schema=s))])
    _compare_clients(verdict, heard, ledger)
    if ledger != history:
        odd = sorted(set(ledger.items()) ^ set(history.items()))
        verdict.differences += [f"history and ledger differ: {each}" for each in odd]
    known = {each.request.replace("-", "") for each in heard}
    verdict.differences += [f"booked, but no client's: {each}" for each in ledger.keys() - known]
    state = redis.Redis.from_url(stack.redis_url)
    _compare_credit(verdict, state, stack)
    verdict.differences += _left_over(state)
    return verdict


def _compare_clients(verdict: Verdict, heard: Sequence[Heard], ledger: Books) -> None:
    for each in heard:
        verdict.breaks += each.breaks
        verdict.ends[f"{each.habit}: {each.reason}"] += 1
        name = f"{each.habit} {each.request}"
        if each.problem:
            verdict.differences.append(f"{name}: {each.problem}")
        booked = ledger.get(each.request.replace("-", ""))
        if booked is None:
            verdict.differences.append(f"{name}: not in the ledger")
            continue
        used = (each.usage["prompt_tokens"], each.usage["completion_tokens"])
        verdict.tokens += used[1]
        if booked[:2] != used:
            verdict.differences.append(f"{name}: heard {used} tokens, booked {booked[:2]}")


def _compare_credit(verdict: Verdict, state: Any, stack: Stack) -> None:
    for organization, spent in stack.rows(_SPENT):
        counted = state.hget(f"credit:{organization}", "spent")
        held = state.hlen(f"credit:{organization}:held")
        if counted is not None and int(counted) != spent:
            verdict.differences.append(
                f"organization {organization}: credit counts {int(counted)}, the ledger {spent}"
            )
        if held:
            verdict.differences.append(f"organization {organization}: {held} holds are left")


def _left_over(state: Any) -> list[str]:
    found = [
        f"{key} is not empty" for key in ("leases", "sealed", "queue:echo") if state.exists(key)
    ]
    running = [key for key in state.scan_iter("limits:*:running") if state.zcard(key)]
    return found + [f"{key.decode()} still counts requests" for key in running]


def _books(rows: Sequence[tuple[Any, ...]]) -> Books:
    return {request: (prompt, completion, amount) for request, prompt, completion, amount in rows}
