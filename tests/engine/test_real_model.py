"""SmolLM2-135M-Instruct as it ships: prepared, loaded, and making sense."""

from pathlib import Path

import pytest

from inference.engine import Engine, FinishReason, load_engine, load_text
from inference.engine.prepare.quality import read_quality
from tests.engine.parts import Answers, solo, work

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def engine(real: Path) -> Engine:
    """One engine on the real model."""
    return load_engine(real, slots=8)


def test_it_says_what_ai_is(engine: Engine) -> None:
    prompt = engine.text.chat([{"role": "user", "content": "What is AI?"}])
    answer = solo(engine, work(prompt=prompt, max_tokens=160))
    assert "artificial intelligence" in answer.text.lower()
    assert answer.text[-1] == "."
    assert answer.outcome is not None
    assert answer.outcome.reason == FinishReason.stop


def test_batched_answers_equal_solo_answers(engine: Engine) -> None:
    questions = [
        "What is AI?",
        "Name three rivers.",
        "Why is the sky blue?",
        "Write a haiku.",
        "2+2?",
    ]
    works = [
        work(
            question,
            engine.text.chat([{"role": "user", "content": question}]),
            max_tokens=32,
            temperature=0.7 * (number % 2),
            top_p=0.9,
            seed=number,
        )
        for number, question in enumerate(questions)
    ]
    alone = {each.id: solo(engine, each) for each in works}
    answers = Answers()
    for each in works:
        engine.submit(each)
        answers.take(engine.step())
    answers.take_rest(engine)
    assert answers == alone


def test_digits_are_tokens_of_their_own(real: Path) -> None:
    text = load_text(real)
    assert len(text.encode("12345")) == 5


def test_it_knows_the_capital_of_france(engine: Engine) -> None:
    """Full precision is nearly undecided at the first token: 8 bit must not tip it over."""
    prompt = engine.text.chat([{"role": "user", "content": "What is the capital of France?"}])
    assert (
        solo(engine, work(prompt=prompt, max_tokens=16)).text == "The capital of France is Paris."
    )


def test_its_perplexity_rose_by_less_than_two_percent(real: Path) -> None:
    quality = read_quality(real)
    assert quality is not None
    assert quality.rise < 0.02
