"""The echo model."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine import (
    Engine,
    FinishReason,
    Manifest,
    NotPrepared,
    load_engine,
    write_manifest,
)
from inference.engine.echo import EchoRunner
from inference.engine.text import ByteText
from tests.engine.parts import Answer, Answers, solo, work


def echo(*, slots: int = 4, context: int = 512) -> Engine:
    return Engine(EchoRunner(slots=slots, context=context), ByteText(context), drafts=0)


@given(texts=st.lists(st.text(max_size=40), min_size=1, max_size=6))
@settings(deadline=None)
def test_each_hears_his_own_words(texts: list[str]) -> None:
    engine = echo()
    for number, text in enumerate(texts):
        engine.submit(work(str(number), engine.text.encode(text), max_tokens=200))
    answers = Answers()
    answers.take_rest(engine)
    for number, text in enumerate(texts):
        answer = answers[str(number)]
        assert answer.text == text
        assert answer.outcome is not None
        assert answer.outcome.reason == FinishReason.stop
        assert answer.outcome.completion_tokens == len(text.encode()) + 1


def test_it_can_be_sampled_stopped_and_resumed() -> None:
    engine = echo()
    prompt = engine.text.chat([{"role": "user", "content": "one two three"}])
    sampled = solo(engine, work("a", prompt, max_tokens=99, temperature=1.0, top_p=0.9))
    stopped = solo(engine, work("b", prompt, max_tokens=99, stop=(" three",)))
    emitted = tuple(b"one t")
    resumed = solo(engine, work("c", prompt, max_tokens=99, emitted=emitted))
    short = solo(engine, work("d", prompt, max_tokens=3))
    assert (sampled.text, stopped.text, resumed.text) == ("one two three", "one two", "wo three")
    assert (short.text, short.outcome and short.outcome.reason) == ("one", FinishReason.length)


@pytest.mark.parametrize(
    ("said", "most", "reason"), [("the EN", 99, FinishReason.stop), ("the END", 6, "length")]
)
def test_what_was_held_back_is_delivered_when_the_answer_ends_by_itself(
    said: str, most: int, reason: str
) -> None:
    engine = echo()
    answer = solo(engine, work(prompt=engine.text.encode(said), max_tokens=most, stop=("END",)))
    assert answer.text == "the EN"
    assert answer.outcome is not None
    assert answer.outcome.reason == reason


def test_what_was_held_back_is_not_delivered_when_the_answer_is_handed_over() -> None:
    engine, answers = echo(), Answers()
    engine.submit(work(prompt=engine.text.encode("the EN, the END"), max_tokens=99, stop=("END",)))
    while len(answers.get("one", Answer()).tokens) < 6:
        answers.take(engine.step())
    engine.cancel("one", FinishReason.handed_over)
    answers.take_rest(engine)
    assert answers["one"].text == "the "
    emitted = tuple(answers["one"].tokens)
    again = work(
        prompt=engine.text.encode("the EN, the END"), max_tokens=99, stop=("END",), emitted=emitted
    )
    assert solo(engine, again).text == "EN, the "


def test_an_engine_is_loaded_from_its_folder(tmp_path: Path) -> None:
    write_manifest(tmp_path, Manifest("echo", "echo", 64, (256,), "1", "none", 0))
    engine = load_engine(tmp_path, slots=2)
    assert engine.free_slots == 2
    assert solo(engine, work(prompt=engine.text.encode("hé"), max_tokens=9)).text == "hé"


def test_a_backend_this_version_lacks_is_named(tmp_path: Path) -> None:
    write_manifest(tmp_path, Manifest("x", "abacus", 64, (256,), "1", "none", 0))
    with pytest.raises(NotPrepared, match="abacus"):
        load_engine(tmp_path)
