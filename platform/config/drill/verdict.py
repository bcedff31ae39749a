"""What must be true after a drill: every client's account against the books, and nothing left."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from config.drill.fates import fates
from config.drill.faults import Row, faults, seconds_to_stop
from config.drill.heard import LOST, READING, Heard
from config.drill.kills import FLUSH, WORKER, Kill
from config.drill.leftovers import Resources, left_over
from config.stack.apart import Stack

_LEDGER = """
SELECT replace(request::text, '-', ''),
       coalesce(units->>'input_tokens', units->>'batch_input_tokens', '0')::int
           + coalesce(units->>'cached_input_tokens', '0')::int,
       coalesce(units->>'output_tokens', units->>'batch_output_tokens')::int, amount
FROM billing_ledgerentry
"""
_CREDITED = """
SELECT replace(split_part(reference, ':', 2), '-', ''), amount FROM billing_grant
WHERE starts_with(reference, 'undelivered:')
"""
_HISTORY = """
SELECT replace(id::text, '-', ''), prompt_tokens, completion_tokens, amount
FROM {schema}.inference_request
"""
_ATTEMPTS = "SELECT replace(id::text, '-', ''), attempts FROM {schema}.inference_request"
_SPENT = "SELECT organization_id, sum(amount)::bigint FROM billing_ledgerentry GROUP BY 1"

_PATIENCE_SECONDS = 10.0

Books = dict[str, Row]
"""By request."""


@dataclass
class Verdict:
    """Counts, and every difference in words."""

    requests: int = 0
    tokens: int = 0
    breaks: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    pauses: list[float] = field(default_factory=list)
    """How long answers stood still for a worker that was killed, in seconds."""
    longer_pauses: list[float] = field(default_factory=list)
    """How long for several: who took one over was killed too, or nobody was left to."""
    late: list[int] = field(default_factory=list)
    """Tokens that came after a running request's cancellation was told."""
    to_stop: list[float] = field(default_factory=list)
    """Seconds from when plain clients had left to their requests' ends."""
    resumed: int = 0
    """Answers that more than one worker wrote."""
    forgotten: int = 0
    """Requests whose clients were told that a flush lost them."""
    credited: int = 0
    """How many of them had been booked, and were credited."""
    same: int | None = None
    """How many resumed ones equal the undisturbed text; None where it was not asked for again."""
    differences: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For a program that reads it."""
        return {
            "requests": self.requests,
            "tokens": self.tokens,
            "breaks": self.breaks,
            "ends": dict(self.ends),
            "pause_p95_seconds": quantile(self.pauses, 0.95),
            "pause_of_several_kills_p95_seconds": quantile(self.longer_pauses, 0.95),
            "told_to_stop": len(self.late),
            "late_tokens_most": max(self.late, default=0),
            "left_and_stopped": len(self.to_stop),
            "seconds_to_stop_p99": quantile(self.to_stop, 0.99),
            "resumed": self.resumed,
            "resumed_same": self.same,
            "forgotten": self.forgotten,
            "credited": self.credited,
            "differences": self.differences,
        }


def judge(
    stack: Stack,
    heard: Sequence[Heard],
    schemas: Sequence[str],
    kills: Sequence[Kill],
    before: Resources,
) -> Verdict:
    """Compare what the clients heard with history, ledger and credit, and look for leftovers.

    `before` is what the processes had open while they were loaded and nobody had been killed.
    """
    verdict = Verdict(requests=len(heard))
    flushed = any(kill.victim == FLUSH.name for kill in kills)
    state = redis.Redis.from_url(stack.redis_url, socket_timeout=_PATIENCE_SECONDS)
    ledger = _books(stack.rows(_LEDGER))
    history = _books(row for s in schemas for row in stack.rows(_HISTORY.format(schema=s)))
    _compare_clients(verdict, state, heard, ledger, kills)
    if flushed:
        _compare_lost(verdict, heard, ledger, dict(stack.rows(_CREDITED)))
    if ledger != history:
        odd = sorted(set(ledger.items()) ^ set(history.items()))
        verdict.differences += [f"history and ledger differ: {each}" for each in odd]
    known = {
        _bare(name)
        for each in heard
        for name in (each.request, *each.lost, *each.twins, *each.shed)
    }
    verdict.differences += [
        f"booked, but no client's: {request} {row}"
        for request, row in ledger.items()
        if request not in known
    ]
    pauses = _pauses(heard, kills)
    verdict.pauses = [seconds for seconds, killed in pauses if killed == 1]
    verdict.longer_pauses = [seconds for seconds, killed in pauses if killed > 1]
    verdict.resumed = len(resumed(stack, heard, schemas))
    _compare_credit(verdict, state, stack)
    verdict.differences += left_over(state, stack, before)
    return verdict


def resumed(stack: Stack, heard: Sequence[Heard], schemas: Sequence[str]) -> list[Heard]:
    """Those that came to their own end by more than one worker."""
    rows = [row for s in schemas for row in stack.rows(_ATTEMPTS.format(schema=s))]
    several = {request for request, attempts in rows if attempts > 1}
    return [h for h in heard if _plain(h) in several and h.reason in ("stop", "length")]


def quantile(values: Sequence[float], share: float) -> float | None:
    """The value that this share of them does not exceed; None of none."""
    ordered = sorted(values)
    return round(ordered[int((len(ordered) - 1) * share)], 2) if ordered else None


def _compare_clients(
    verdict: Verdict, state: Any, heard: Sequence[Heard], ledger: Books, kills: Sequence[Kill]
) -> None:
    flushed = any(kill.victim == FLUSH.name for kill in kills)
    found = fates(state, heard)
    verdict.late = [fate.late for fate in found if fate.late is not None]
    verdict.to_stop = seconds_to_stop(heard, found)
    for each, fate in zip(heard, found, strict=True):
        verdict.breaks += each.breaks
        verdict.ends[f"{each.habit}: {each.reason or 'not ended'}"] += 1
        verdict.tokens += each.usage.get("completion_tokens", 0)
        if flushed and each.reason == LOST:
            continue
        name, booked = f"{each.habit} {each.request}", ledger.get(_plain(each))
        verdict.differences += [f"{name}: {what}" for what in faults(each, booked, fate, kills)]
        if len(each.twins) > 1 and not flushed:
            verdict.differences.append(f"{name}: answered as {sorted(each.twins)}")


def _compare_lost(
    verdict: Verdict, heard: Sequence[Heard], ledger: Books, credited: dict[str, int]
) -> None:
    """Of what a flush lost, only what its client heard whole may have been paid for: the end of an
    answer is a token too, without a text."""
    for each in heard:
        for request in map(_bare, each.lost):
            verdict.forgotten += 1
            _, tokens, amount = ledger.get(request, (0, 0, 0))
            left = amount - credited.get(request, 0)
            verdict.credited += request in credited
            read = len(each.text.encode()) + 1 if each.habit in READING else 0
            if left and not (left == amount and tokens <= read):
                verdict.differences.append(
                    f"{each.habit} {request}: lost, {tokens} tokens, of them {read} heard; "
                    f"{amount} nanos booked and {amount - left} credited"
                )


def _pauses(heard: Iterable[Heard], kills: Sequence[Kill]) -> list[tuple[float, int]]:
    """How long, and how many workers were killed outright meanwhile; if nobody else in any way."""
    found = []
    for since, until in (pause for each in heard for pause in each.pauses):
        within = [(k.victim, k.how) for k in kills if since - 1 < k.at < until]
        if {*within} == {(WORKER.name, "SIGKILL")}:
            found.append((until - since, len(within)))
    return found


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


def _plain(heard: Heard) -> str:
    return _bare(heard.request)


def _bare(request: str) -> str:
    return request.replace("-", "")


def _books(rows: Iterable[tuple[Any, ...]]) -> Books:
    return {request: (prompt, completion, amount) for request, prompt, completion, amount in rows}
