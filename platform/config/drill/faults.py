"""What is wrong with one request: what its client heard, beside the books and what Redis knows."""

from collections.abc import Iterator, Sequence

from config.drill.fates import Fate
from config.drill.heard import LINGER_SECONDS, Habit, Heard
from config.drill.kills import FLUSH, VALKEY, WEB, Kill

Row = tuple[int, int, int]
"""Of a request in the books: prompt tokens, completion tokens, nanos."""
_NOTICED_SECONDS = 3.0
"""Within what time the platform must have noticed that a plain client is gone, however busy."""
_RESTART_SECONDS = 15.0
_CLOCK_SECONDS = 0.5
_NOTICE = frozenset({WEB.name, VALKEY.name, FLUSH.name})
"""Without whom nobody can notice, or say so: a dead web process is not a disconnect."""


def faults(each: Heard, booked: Row | None, fate: Fate, kills: Sequence[Kill]) -> Iterator[str]:
    """Each in words; nothing where all is well."""
    if not each.reason:
        asked = each.request or "no id was heard"
        trouble = f"; its client last met {each.trouble}" if each.trouble else ""
        yield f"has not ended ({asked}, of {each.organization}): {fate}{trouble}"
        return
    if each.problem:
        yield each.problem
    if booked is None:
        yield "not in the ledger"
    else:
        yield from _of_tokens(each, booked)
    yield from _of_leaving(each, fate, kills)


def _of_tokens(each: Heard, booked: Row) -> Iterator[str]:
    used = (each.usage.get("prompt_tokens"), each.usage.get("completion_tokens"))
    if each.usage and booked[:2] != used:
        yield f"heard {used} tokens, booked {booked[:2]}"
    if each.said is not None and each.said != booked[1]:
        yield f"{each.said} tokens were said, {booked[1]} booked"
    if each.left_at > booked[1]:
        yield f"{each.left_at} tokens heard, {booked[1]} booked"


def _of_leaving(each: Heard, fate: Fate, kills: Sequence[Kill]) -> Iterator[str]:
    if fate.late:
        yield f"{fate.late} tokens came after it was told to stop"
    if each.left is None or fate.sealed is None:
        return
    passed = fate.sealed - each.left
    is_cancelled = each.reason == "cancelled"
    patience = _NOTICED_SECONDS + (0 if each.plain else LINGER_SECONDS)
    if each.habit is Habit.LEAVE and not is_cancelled and passed > patience:
        if not _is_excused(each.left, fate.sealed, kills):
            yield f"was not cancelled, though its client was gone for {passed:.1f} s before its end"
    elif each.habit is Habit.HANG_UP and is_cancelled and passed < LINGER_SECONDS - _CLOCK_SECONDS:
        yield f"was cancelled {passed:.1f} s after its reader had left, who may come back for 15"


def _is_excused(left: float, sealed: float, kills: Sequence[Kill]) -> bool:
    return any(k.victim in _NOTICE and left - _RESTART_SECONDS < k.at < sealed for k in kills)


def seconds_to_stop(heard: Sequence[Heard], found: Sequence[Fate]) -> list[float]:
    """How long after their clients had left plain requests were stopped."""
    return [
        max(0.0, fate.sealed - each.left)
        for each, fate in zip(heard, found, strict=True)
        if each.plain
        and each.reason == "cancelled"
        and each.left is not None
        and fate.sealed is not None
    ]
