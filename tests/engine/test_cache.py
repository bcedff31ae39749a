"""Prefixes used again: inside an organization, in whole chunks, to the same bits."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine import Engine, FinishReason
from inference.engine.cache import Cache
from inference.engine.text import ByteText
from tests.engine.parts import NOT_A_NUMBER, RAISES, Answer, Answers, HashRunner, solo, work

CHUNK = 8
LONG = range(20, 61)


def engine(runner: HashRunner | None = None, *, cache_tokens: int | None = None) -> Engine:
    runner = runner or HashRunner()
    return Engine(
        runner, ByteText(runner.context), step_tokens=16, chunk=CHUNK, cache_tokens=cache_tokens
    )


def fresh(prompt: Sequence[int]) -> Answer:
    return solo(engine(), work(prompt=prompt))


def test_a_second_prompt_computes_only_what_is_new() -> None:
    runner = HashRunner()
    running = engine(runner)
    solo(running, work("first", [*LONG, 7 * 11]))
    runner.calls.clear()
    second = solo(running, work("second", [*LONG, 99, 98]))
    assert second.cached == 40
    assert runner.calls[0] == ("prefill", 3)
    assert second == fresh([*LONG, 99, 98])
    assert running.stats().cached_tokens == 40


def test_another_organization_computes_the_same_prompt_anew() -> None:
    running = engine()
    solo(running, work("alice's", LONG, tenant="acme"))
    bobs = solo(running, work("bob's", LONG, tenant="globex"))
    assert bobs.cached == 0
    assert bobs == fresh(LONG)
    assert solo(running, work("bob's next", LONG, tenant="globex")).cached == 40


def test_the_last_chunk_is_always_computed() -> None:
    running = engine()
    prompt = range(20, 20 + 2 * CHUNK)
    assert solo(running, work("a", prompt)) == solo(running, work("b", prompt))
    assert solo(running, work("c", prompt)).cached == CHUNK


def test_a_prompt_begins_with_what_a_running_one_has_computed() -> None:
    running, answers = engine(), Answers()
    running.submit(work("first", LONG, max_tokens=200))
    running.submit(work("second", [*LONG, 99], max_tokens=200))
    running.submit(work("other's", LONG, max_tokens=200, tenant="globex"))
    answers.take_rest(running)
    assert (answers["second"].cached, answers["other's"].cached) == (40, 0)


@pytest.mark.parametrize("poison", [RAISES, NOT_A_NUMBER])
def test_what_failed_leaves_nothing_behind(poison: int) -> None:
    running = engine()
    prompt = [*LONG, poison]
    outcome = solo(running, work("a", prompt)).outcome
    assert outcome is not None
    assert outcome.reason == FinishReason.failed
    assert solo(running, work("b", LONG)).cached == 0


def test_what_was_used_longest_ago_goes_first() -> None:
    running = engine(HashRunner(shelves=2))
    one, two, three = ([number, *LONG] for number in (1, 2, 3))
    for name, prompt in (("1", one), ("2", two), ("1 again", one), ("3", three)):
        solo(running, work(name, prompt))
    assert solo(running, work("1 once more", one)).cached == 40
    assert solo(running, work("2 again", two)).cached == 0


def test_a_conversation_that_grows_takes_one_shelf() -> None:
    running = engine(HashRunner(shelves=2))
    solo(running, work("other", [1, *LONG]))
    for turn in range(1, 6):
        grown = solo(running, work(str(turn), range(20, 20 + 10 * turn), max_tokens=1))
        assert grown.cached == 10 * (turn - 1) // CHUNK * CHUNK
    assert solo(running, work("other again", [1, *LONG])).cached == 40


def test_without_shelves_prompts_are_shared_among_the_running_alone() -> None:
    running = engine(HashRunner(shelves=0))
    solo(running, work("a", LONG))
    assert solo(running, work("b", LONG)).cached == 0


def test_shelves_give_way_when_tokens_run_out() -> None:
    running = engine(cache_tokens=256)
    for number in range(9):
        solo(running, work(str(number), [number, *range(20, 200)], max_tokens=30))
        running.check()


def test_a_cache_that_holds_no_whole_context_is_refused() -> None:
    with pytest.raises(ValueError, match="255 tokens"):
        Cache(HashRunner(), slots=1, room=255, chunk=8)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_is_shared_preempted_or_evicted_the_text_is_the_same(data: st.DataObject) -> None:
    stems = [list(range(start, start + length)) for start, length in ((20, 40), (30, 25), (20, 17))]
    runner = HashRunner(slots=3, context=128, shelves=data.draw(st.integers(0, 3)))
    running = engine(runner, cache_tokens=data.draw(st.sampled_from([None, 128, 200])))
    works, answers, cancelled = [], Answers(), set[str]()
    for number in range(data.draw(st.integers(2, 14))):
        prompt = [*data.draw(st.sampled_from(stems)), *data.draw(st.lists(st.integers(40, 50)))]
        works.append(
            work(
                str(number),
                prompt[:100],
                max_tokens=data.draw(st.integers(1, 60)),
                tenant=data.draw(st.sampled_from(["acme", "globex"])),
                priority=data.draw(st.integers(0, 2)),
                temperature=data.draw(st.sampled_from([0.0, 1.0])),
            )
        )
        running.submit(works[-1])
        for _ in range(data.draw(st.sampled_from([0, 1, 7, 40]))):
            answers.take(running.step())
            running.check()
        if data.draw(st.integers(0, 4)) == 0:
            cancelled.add(str(number))
            running.cancel(str(number))
    answers.take_rest(running)
    for each in works:
        alone = solo(Engine(HashRunner(context=128), ByteText(128), step_tokens=16, chunk=8), each)
        if each.id in cancelled:
            assert answers[each.id].tokens == alone.tokens[: len(answers[each.id].tokens)]
        else:
            assert answers[each.id] == alone
    assert not runner.held
    for tenant in ("acme", "globex"):
        own = [answers[each.id] for each in works if each.tenant == tenant]
        assert sum(answer.cached > 0 for answer in own) < max(len(own), 1)
