"""Steps in one call: the same answers as step by step, in fewer of them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine import Engine, Work
from inference.engine.drafts import Drafts
from inference.engine.echo import EchoRunner
from inference.engine.runner import RowRunner
from inference.engine.text import ByteText
from tests.engine.parts import (
    NOT_A_NUMBER,
    RAISES,
    Answers,
    HashRunner,
    RowHashRunner,
    finish,
    solo,
    work,
)

TEXT = ByteText(256)
prompts = st.lists(st.sampled_from([3, 4, 5, 40]), min_size=1, max_size=90)
kinds = st.tuples(prompts, st.sampled_from(["acme", "globex"]), st.sampled_from([0.0, 0.9]))


def works_of(chosen: list[tuple[list[int], str, float]]) -> list[Work]:
    return [
        work(str(n), prompt, tenant=tenant, temperature=temperature, seed=n, max_tokens=9)
        for n, (prompt, tenant, temperature) in enumerate(chosen)
    ]


def test_the_row_runners_are_what_they_say() -> None:
    assert isinstance(RowHashRunner(), RowRunner)
    assert not isinstance(HashRunner(), RowRunner)


@given(chosen=st.lists(kinds, min_size=1, max_size=7), data=st.data())
@settings(max_examples=60, deadline=None)
def test_answers_are_those_of_single_steps(
    chosen: list[tuple[list[int], str, float]], data: st.DataObject
) -> None:
    works = works_of(chosen)
    plain = Engine(HashRunner(slots=1), TEXT)
    alone = {each.id: solo(plain, each) for each in works}
    together = Engine(RowHashRunner(slots=3), TEXT, step_tokens=data.draw(st.integers(1, 40)))
    answers = Answers()
    for each in works:
        together.submit(each)
        for _ in range(data.draw(st.integers(0, 3))):
            answers.take(together.step())
            together.check()
    answers.take_rest(together)
    assert answers == alone


@given(prompt=prompts, cut=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_what_was_emitted_before_is_run_in_few_calls_to_the_same_end(
    prompt: list[int], cut: int
) -> None:
    engine = Engine(RowHashRunner(slots=2), TEXT)
    whole = solo(engine, work("one", prompt, temperature=0.8, seed=4))
    emitted = tuple(whole.tokens[:cut])
    again = Engine(RowHashRunner(slots=2, endless=False), TEXT)
    again.submit(replace(work("one", prompt, temperature=0.8, seed=4), emitted=emitted))
    answer = finish(again)["one"]
    assert answer.tokens[cut:] == whole.tokens[cut:]
    assert whole.text.endswith(answer.text)


def test_a_text_that_repeats_its_prompt_takes_a_fraction_of_the_steps() -> None:
    prompt = [int(token) for token in np.random.default_rng(1).integers(0, 255, 100)]
    counts = []
    for drafts in (0, 8):
        engine = Engine(EchoRunner(slots=2, context=256), TEXT, drafts=drafts)
        engine.submit(work("one", [*prompt, ByteText.END], max_tokens=100))
        answer = finish(engine)["one"]
        assert answer.tokens[:100] == prompt
        counts.append(engine.stats().steps)
    assert counts[1] < counts[0] / 4


def test_a_stop_string_inside_a_draft_ends_the_text_there() -> None:
    prompt = TEXT.encode("one two three four one two three four. ")
    engine = Engine(EchoRunner(slots=2, context=256), TEXT)
    engine.submit(work("one", prompt, max_tokens=100, stop=("three",)))
    assert finish(engine)["one"].text == "one two "


@pytest.mark.parametrize("poison", [RAISES, NOT_A_NUMBER])
def test_a_poisonous_request_fails_alone(poison: int) -> None:
    engine = Engine(RowHashRunner(slots=4), TEXT)
    clean = [work(str(n), [3, 4, n + 20]) for n in range(3)]
    alone = {each.id: solo(engine, each) for each in clean}
    for each in (*clean, work("poison", [3, poison, 5])):
        engine.submit(each)
    answers = finish(engine)
    outcome = answers.pop("poison").outcome
    assert outcome is not None
    assert outcome.reason == "failed"
    assert answers == alone


def test_prompts_that_begin_alike_are_computed_once() -> None:
    runner = RowHashRunner(slots=4)
    engine = Engine(runner, TEXT)
    stem = list(range(20, 70))
    for number in range(3):
        engine.submit(work(str(number), [*stem, 100 + number], max_tokens=2))
    answers = finish(engine)
    assert sorted(answer.cached for answer in answers.values()) == [0, 50, 50]


def test_a_long_prompt_takes_little_of_a_step_while_others_decode() -> None:
    runner = RowHashRunner(slots=4, endless=True)
    engine = Engine(runner, TEXT)
    engine.submit(work("one", [20, 21], max_tokens=200))
    engine.step()
    engine.submit(work("long", [30 + n % 50 for n in range(200)], max_tokens=2))
    runner.calls.clear()
    for _ in range(5):
        engine.step()
    assert all(kind == "run" and rows <= 9 for kind, rows in runner.calls)


@given(tokens=st.lists(st.integers(0, 3), max_size=60), most=st.integers(0, 9))
def test_a_draft_is_what_followed_the_last_time(tokens: list[int], most: int) -> None:
    draft = Drafts().propose(tokens, most)
    assert len(draft) <= most
    if draft:
        key = tokens[-3:]
        at = max(n for n in range(3, len(tokens)) if tokens[n - 3 : n] == key)
        assert draft == tokens[at : at + len(draft)]


def test_drafts_that_never_come_true_are_proposed_less_and_less() -> None:
    drafts, tokens = Drafts(), [1, 2, 3, 1, 2, 3]
    proposed = 0
    for _ in range(100):
        found = drafts.propose(tokens, 8)
        proposed += len(found)
        drafts.judge(len(found), 0)
    assert proposed < 15


def test_a_crowd_that_waits_beside_one_answer_begins_together() -> None:
    engine, answers = Engine(RowHashRunner(slots=16, endless=True), TEXT), Answers()
    engine.submit(work("first", [40], max_tokens=200))
    for _ in range(3):
        answers.take(engine.step())
    for number in range(15):
        engine.submit(work(str(number), [60 + number] * 20, max_tokens=200))
    steps = 0
    while len(answers) < 16 or not all(answer.tokens for answer in answers.values()):
        answers.take(engine.step())
        steps += 1
    assert steps < 25
