"""Continuous batching, on a model whose every token depends on everything before it."""

from collections.abc import Sequence
from threading import Event, Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine import (
    ContextOverflow,
    Delta,
    Engine,
    EngineClosed,
    FinishReason,
    Work,
)
from inference.engine.text import ByteText
from tests.engine.parts import (
    NO_MEMORY,
    NOT_A_NUMBER,
    RAISES,
    Answer,
    Answers,
    HashRunner,
    finish,
    solo,
    work,
)

prompts = st.lists(st.integers(20, 200), min_size=1, max_size=90)


def engine(*, slots: int = 4, context: int = 256, step_tokens: int = 16, chunk: int = 8) -> Engine:
    runner = HashRunner(slots=slots, context=context)
    return Engine(runner, ByteText(context), step_tokens=step_tokens, chunk=chunk)


@st.composite
def works(draw: st.DrawFn) -> list[Work]:
    return [
        work(
            str(number),
            draw(prompts),
            max_tokens=draw(st.integers(1, 40)),
            temperature=draw(st.sampled_from([0.0, 1.0])),
            top_p=draw(st.sampled_from([0.7, 1.0])),
            seed=draw(st.integers(0, 99)),
            stop=draw(st.sampled_from([(), ("a",), ("b", "cd")])),
            priority=draw(st.integers(0, 2)),
        )
        for number in range(draw(st.integers(1, 9)))
    ]


def test_a_resumed_answer_is_begun_once_something_new_is_run() -> None:
    """Until then a crash says nothing of it: another worker came as far."""
    one = engine(slots=1)
    prompt = list(range(20, 30))
    emitted = tuple(solo(engine(), work("a", prompt, max_tokens=8)).tokens)
    one.submit(work("a", prompt, max_tokens=99, emitted=emitted))
    steps = 0
    while one.unbegun():
        one.step()
        steps += 1
    assert steps >= len(emitted)
    one.submit(work("b", prompt, max_tokens=99))
    assert one.unbegun() == {"b"}


@given(batch=works(), data=st.data())
@settings(max_examples=40, deadline=None)
def test_an_answer_depends_on_no_neighbour_and_no_restart(
    batch: list[Work], data: st.DataObject
) -> None:
    alone = {each.id: solo(engine(), each) for each in batch}

    together, answers = engine(), Answers()
    for each in batch:
        together.submit(each)
        for _ in range(data.draw(st.integers(0, 4))):
            answers.take(together.step())
            together.check()
    answers.take_rest(together)
    assert answers == alone

    resumed = engine()
    cuts = {each.id: data.draw(st.integers(0, len(alone[each.id].tokens))) for each in batch}
    for each in batch:
        emitted = tuple(alone[each.id].tokens[: cuts[each.id]])
        resumed.submit(work_again(each, emitted))
    for identifier, answer in finish(resumed).items():
        whole, cut = alone[identifier], cuts[identifier]
        assert answer.tokens[cut:] == whole.tokens[cut:]
        assert answer.outcome == whole.outcome
        assert whole.text.endswith(answer.text)


def work_again(one: Work, emitted: tuple[int, ...]) -> Work:
    return Work(one.id, one.tenant, one.prompt, one.sampling, emitted, one.priority)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_random_arrivals_and_cancels_leave_nothing_behind(data: st.DataObject) -> None:
    runner = HashRunner(slots=3)
    running = Engine(runner, ByteText(256), step_tokens=16, chunk=8)
    submitted, answers = list[str](), Answers()
    for step in range(data.draw(st.integers(5, 40))):
        if data.draw(st.booleans()):
            running.submit(work(str(step), data.draw(prompts), max_tokens=30))
            submitted.append(str(step))
        if submitted and data.draw(st.integers(0, 3)) == 0:
            running.cancel(data.draw(st.sampled_from(submitted)))
        answers.take(running.step())
        running.check()
    answers.take_rest(running)
    assert set(answers) == set(submitted)
    assert all(answer.outcome for answer in answers.values())
    assert running.free_slots == 3
    assert not runner.held


def test_a_text_resumed_after_any_token_goes_on_where_it_was() -> None:
    whole = solo(engine(), work(max_tokens=40, temperature=1.0, seed=4, stop=("zz",)))
    for cut in range(len(whole.tokens) + 1):
        first, before = engine(), Answers(one=Answer())
        first.submit(work(max_tokens=40, temperature=1.0, seed=4, stop=("zz",)))
        while len(before["one"].tokens) < cut:
            before.take(first.step())
        emitted = tuple(before["one"].tokens)
        again = work(max_tokens=40, temperature=1.0, seed=4, stop=("zz",), emitted=emitted)
        assert before["one"].text + solo(engine(), again).text == whole.text


def test_an_attempt_that_had_already_ended_ends_at_once_and_delivers_nothing_again() -> None:
    whole = solo(engine(), work(max_tokens=5))
    running = engine()
    running.submit(work(max_tokens=5, emitted=tuple(whole.tokens)))
    (delta,) = running.step()
    assert delta == Delta("one", 5, (), "", whole.outcome)
    assert running.free_slots == 4


def test_every_running_request_decodes_in_each_step_while_prompts_are_prefilled() -> None:
    runner = HashRunner(slots=4)
    running = Engine(runner, ByteText(256), step_tokens=16, chunk=8)
    for name in "ab":
        running.submit(work(name, max_tokens=200))
    running.step()
    running.step()
    runner.calls.clear()
    running.submit(work("long", range(20, 120), max_tokens=1))
    for _ in range(5):
        running.step()
    assert runner.calls == [("decode", 2), ("prefill", 8)] * 5


def test_a_full_step_still_prefills_one_chunk() -> None:
    runner = HashRunner(slots=4)
    running = Engine(runner, ByteText(256), step_tokens=1, chunk=8)
    for name in "ab":
        running.submit(work(name, max_tokens=200))
    for _ in range(3):
        running.step()
    running.submit(work("new", range(20, 40)))
    runner.calls.clear()
    running.step()
    assert runner.calls == [("decode", 2), ("prefill", 8)]


def test_priority_goes_first_then_the_first_in() -> None:
    running = engine(slots=1)
    for name, priority in (("a", 2), ("b", 1), ("c", 1), ("d", 0)):
        running.submit(work(name, max_tokens=2, priority=priority))
    assert list(finish(running)) == ["d", "b", "c", "a"]


def test_a_cancel_takes_effect_within_a_step_running_or_waiting() -> None:
    running = engine(slots=1)
    running.submit(work("runs", max_tokens=100))
    running.submit(work("waits", max_tokens=100))
    running.step()
    running.cancel("runs")
    running.cancel("waits", FinishReason.handed_over)
    running.cancel("unknown")
    outcomes = {delta.id: delta.outcome for delta in running.step()}
    assert outcomes["runs"] is not None
    assert outcomes["waits"] is not None
    assert outcomes["runs"].reason == FinishReason.cancelled
    assert outcomes["runs"].completion_tokens == 1
    assert outcomes["waits"].reason == FinishReason.handed_over
    assert running.stats().running == running.stats().waiting == 0


def test_a_request_past_its_deadline_stops_with_what_it_has() -> None:
    now = 100.0
    running = Engine(HashRunner(), ByteText(256), clock=lambda: now)
    running.submit(work(max_tokens=100, deadline=101.0))
    answers = Answers()
    answers.take(running.step())
    answers.take(running.step())
    now = 101.0
    answers.take(running.step())
    outcome = answers["one"].outcome
    assert outcome is not None
    assert (outcome.reason, outcome.completion_tokens) == (FinishReason.timeout, 2)


@pytest.mark.parametrize("poison", [RAISES, NOT_A_NUMBER, NO_MEMORY])
def test_poison_fails_its_own_request_and_the_engine_goes_on(poison: int) -> None:
    clean = [work(name, [40 + number], max_tokens=30) for number, name in enumerate("abc")]
    alone = {each.id: solo(engine(), each) for each in clean}
    running = engine()
    for each in clean:
        running.submit(each)
    running.submit(work("poison", [poison, 50], max_tokens=30))
    answers = finish(running)
    outcome = answers.pop("poison").outcome
    assert outcome is not None
    assert outcome.reason == FinishReason.failed
    assert outcome.error
    assert answers == alone


def test_a_decode_that_raises_is_tried_singly_and_fails_alone() -> None:
    clean = work("clean", [40], max_tokens=30)
    alone = solo(engine(), clean)
    running = engine()
    running.submit(clean)
    running.submit(work("poison", [50], emitted=(60, RAISES, 61), max_tokens=30))
    answers = finish(running)
    assert answers["poison"].outcome is not None
    assert answers["poison"].outcome.reason == FinishReason.failed
    assert answers["clean"] == alone


def test_a_prompt_without_room_for_an_answer_is_refused_with_the_numbers() -> None:
    with pytest.raises(ContextOverflow, match=r"256 tokens.* at most 256"):
        engine().submit(work(prompt=[40] * 256))


def test_an_answer_ends_where_the_context_does() -> None:
    answer = solo(engine(context=32), work(prompt=[40] * 30, max_tokens=100))
    assert answer.outcome is not None
    assert answer.outcome.reason in {FinishReason.length, FinishReason.stop}
    assert len(answer.tokens) <= 2


def test_an_empty_prompt_and_a_name_in_use_are_refused() -> None:
    running = engine()
    with pytest.raises(ValueError, match="at least one token"):
        running.submit(work(prompt=[]))
    running.submit(work())
    with pytest.raises(ValueError, match="already"):
        running.submit(work())


def test_more_slots_than_the_runner_has_are_refused() -> None:
    with pytest.raises(ValueError, match="5 slots"):
        Engine(HashRunner(slots=4), ByteText(64), slots=5)


def test_the_thread_sleeps_until_there_is_work_and_hands_over_what_is_left() -> None:
    running = Engine(HashRunner(endless=True), ByteText(256))
    answers, published = Answers(), Event()

    def publish(deltas: Sequence[Delta]) -> None:
        answers.take(deltas)
        published.set()

    thread = Thread(target=running.run, args=(publish,))
    thread.start()
    running.submit(work("one", max_tokens=3))
    assert published.wait(5)
    running.submit(work("two", max_tokens=250, prompt=[40]))
    published.clear()
    assert published.wait(5)
    running.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert answers["two"].outcome is not None
    assert answers["two"].outcome.reason in {FinishReason.handed_over, FinishReason.length}
    with pytest.raises(EngineClosed):
        running.submit(work("three"))


def test_a_publisher_that_raises_ends_the_run_and_closes_the_engine() -> None:
    def publish(deltas: Sequence[Delta]) -> None:
        raise OSError("gone")

    running = engine()
    running.submit(work())
    with pytest.raises(OSError, match="gone"):
        running.run(publish)
    with pytest.raises(EngineClosed):
        running.submit(work("two"))


def test_stats_count_what_was_computed() -> None:
    running = engine()
    answer = solo(running, work(prompt=range(20, 50), max_tokens=4))
    stats = running.stats()
    assert (stats.running, stats.waiting) == (0, 0)
    assert (stats.prompt_tokens, stats.generated_tokens) == (30, len(answer.tokens))
