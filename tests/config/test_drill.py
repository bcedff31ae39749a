"""What the drill takes for a difference: each fault is one, and what is well is none."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from config.drill.fates import Fate
from config.drill.faults import Row, faults
from config.drill.heard import Habit, Heard, Wish
from config.drill.kills import VALKEY, WEB, WORKER, Kill
from config.drill.leftovers import grown
from config.stack.apart import ROOT
from config.stack.lock import Lock

SAID = "one two three"
WISH = Wish(SAID, SAID, {})
WHOLE = (14, len(SAID) + 1, 5)


def heard(habit: Habit, reason: str = "stop", text: str = SAID, **known: Any) -> Heard:
    return Heard(habit, "drill-a", WISH, request="a", reason=reason, text=text, **known)


def wrong(
    each: Heard,
    booked: Row | None = WHOLE,
    fate: Fate | None = None,
    kills: Sequence[Kill] = (),
) -> list[str]:
    return list(faults(each, booked, fate or Fate(), kills))


@pytest.mark.parametrize("habit", Habit)
def test_a_whole_answer_that_is_booked_is_well(habit: Habit) -> None:
    assert wrong(heard(habit)) == []


@pytest.mark.parametrize("habit", Habit)
@pytest.mark.parametrize(
    "each",
    [
        {"reason": "failed"},
        {"reason": "length", "text": "one"},
        {"reason": "stop", "text": "one"},
        {"reason": "lost"},
        {"reason": "a refusal: 409"},
    ],
)
def test_whoever_gets_another_end_or_another_text_is_a_difference(
    habit: Habit, each: dict[str, str]
) -> None:
    assert wrong(heard(habit, **each))


def test_only_who_leaves_may_find_it_cancelled() -> None:
    cut = {"reason": "cancelled", "text": "one"}
    left = {habit for habit in Habit if not wrong(heard(habit, **cut), (14, 3, 2))}
    assert left == {Habit.LEAVE, Habit.HANG_UP, Habit.CANCEL}


def test_what_was_told_to_be_cancelled_must_be() -> None:
    assert wrong(heard(Habit.CANCEL, is_cancelled=True))


def test_a_token_too_many_or_too_few_in_the_books_is_a_difference() -> None:
    cut = heard(Habit.CANCEL, "cancelled", "one")
    assert wrong(cut, (14, 3, 2)) == []
    assert wrong(cut, (14, 4, 2))
    assert wrong(cut, (14, 2, 2))
    assert wrong(heard(Habit.WHOLE), (14, 15, 5))
    assert wrong(heard(Habit.WHOLE), None) == ["not in the ledger"]


@pytest.mark.parametrize("habit", [Habit.LEAVE, Habit.CANCEL, Habit.HANG_UP])
def test_a_token_after_the_cancelling_step_is_a_difference(habit: Habit) -> None:
    cut = heard(habit, "cancelled", "one")
    assert wrong(cut, (14, 3, 2), Fate("done", position=3, told_at=3)) == []
    assert wrong(cut, (14, 3, 2), Fate("done", position=3, told_at=2))


def test_an_answer_that_goes_on_long_after_its_plain_client_has_left_is_a_difference() -> None:
    gone = heard(Habit.LEAVE, left=100.0, plain=True)
    keyed = heard(Habit.LEAVE, left=100.0)
    assert wrong(keyed, fate=Fate("done", sealed=108.0)) == []
    assert wrong(keyed, fate=Fate("done", sealed=120.0))
    assert wrong(gone, fate=Fate("done", sealed=101.0)) == []
    assert wrong(gone, fate=Fate("done", sealed=108.0))
    for victim in (WEB, VALKEY):
        excuse = Kill(99.0, victim.name, "SIGKILL")
        assert wrong(gone, fate=Fate("done", sealed=108.0), kills=[excuse]) == []
    assert wrong(gone, fate=Fate("done", sealed=108.0), kills=[Kill(99, WORKER.name, "SIGKILL")])


def test_who_may_come_back_must_not_be_cancelled_before() -> None:
    away = heard(Habit.HANG_UP, "cancelled", "one", left=100.0)
    assert wrong(away, (14, 3, 2), Fate("done", sealed=115.2)) == []
    assert wrong(away, (14, 3, 2), Fate("done", sealed=103.0))


def test_a_request_that_never_ends_is_named_with_what_is_known_of_it() -> None:
    stuck = heard(Habit.STREAM, reason="", trouble="TimeoutError()")
    (said,) = wrong(stuck, None, Fate("running", position=7, attempt=2, worker="w1"))
    for word in ("a", "drill-a", "running", "w1", "attempt 2", "7 tokens", "TimeoutError"):
        assert word in said


def test_more_descriptors_than_pools_take_are_a_leak() -> None:
    before = {"descriptors of a web process": 60}
    assert list(grown(before, {"descriptors of a web process": 85})) == []
    assert list(grown(before, {"descriptors of a web process": 100}))


def test_a_second_drill_says_that_one_runs_and_touches_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "drill" / "postgres"
    kept.mkdir(parents=True)
    lock = Lock(tmp_path / "drill.lock")
    lock.acquire("")
    try:
        done = _drill(tmp_path)
    finally:
        lock.release()
    assert done.returncode != 0
    assert f"Another drill runs already (process {os.getpid()})" in done.stderr
    assert kept.exists()


def test_an_unknown_victim_is_refused_with_the_names(tmp_path: Path) -> None:
    done = _drill(tmp_path, "--kill", "nobody")
    assert done.returncode != 0
    assert "worker" in done.stderr


def _drill(var: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(  # noqa: S603
        [sys.executable, "manage.py", "drill", *options],
        cwd=ROOT,
        env=os.environ | {"VAR_DIR": str(var)},
        capture_output=True,
        text=True,
        check=False,
    )
