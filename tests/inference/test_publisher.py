"""Steps on their way out: a crowd's go out together, an end and a first token wait for nothing."""

from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import Any

import pytest

from inference import stream
from inference.engine import Delta, FinishReason, Outcome
from inference.jobs import Claim, Verdict
from inference.worker import publisher
from inference.worker.held import Held
from inference.worker.publisher import Publisher
from tests.inference.parts import job

CROWD = 16
Written = SimpleQueue[list[Delta]]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    """What was written, call by call, instead of to Redis."""
    calls: Written = SimpleQueue()

    def append(rows: Sequence[Any]) -> list[str]:
        calls.put([row[2] for row in rows])
        return [Verdict.OK] * len(rows)

    monkeypatch.setattr(stream, "append", append)
    return calls


@pytest.fixture
def crowd() -> Iterator[tuple[Publisher, list[str]]]:
    claims = [Claim(job(), attempt=1, position=0) for _ in range(CROWD)]
    held = {one.choices.works[0]: one for one in map(Held, claims)}
    made = Publisher("test", held=held, note=lambda *_: None)
    yield made, [*held]
    made.stop()


def step(works: Sequence[str], position: int) -> list[Delta]:
    return [Delta(id=each, position=position, tokens=(position,), text="x") for each in works]


def test_a_crowds_quick_steps_are_one_message(
    crowd: tuple[Publisher, list[str]], written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_GATHER_SECONDS", 5.0)
    made, works = crowd
    for position in (1, 2, 3):
        made.put(step(works, position))
    ended = Outcome(FinishReason.stop, 1, 0, 4)
    made.put([Delta(id=works[0], position=4, tokens=(), text="", outcome=ended)])
    made.start()
    first, *others = written.get(timeout=5)
    assert (first.tokens, first.outcome) == ((1, 2, 3), ended)
    assert {each.tokens for each in others} == {(1, 2, 3)}
    assert len(others) == CROWD - 1


def test_what_comes_later_than_it_may_is_not_waited_for(
    crowd: tuple[Publisher, list[str]], written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_GATHER_SECONDS", 60.0)
    made, works = crowd
    made.start()
    made.put(step(works, 1))
    assert {each.tokens for each in written.get(timeout=5)} == {(1,)}


def test_many_wait_for_no_more(
    crowd: tuple[Publisher, list[str]], written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_GATHER_SECONDS", 60.0)
    monkeypatch.setattr(publisher, "_ENOUGH", CROWD)
    made, works = crowd
    made.start()
    for position in (1, 2):
        made.put(step(works, position))
        assert {each.tokens for each in written.get(timeout=5)} == {(position,)}


def test_a_few_wait_for_nothing(
    crowd: tuple[Publisher, list[str]], written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_GATHER_SECONDS", 60.0)
    made, works = crowd
    made.start()
    for position in (1, 2):
        made.put(step(works[: CROWD - 1], position))
        assert {each.tokens for each in written.get(timeout=5)} == {(position,)}
