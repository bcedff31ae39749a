"""Answers by grammar: whatever the model wants, they parse and validate, or were cut short."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from inference.engine import (
    Engine,
    FinishReason,
    Grammar,
    GrammarKind,
    GrammarRefused,
    Sampling,
    Text,
    Work,
    check,
    load_engine,
    load_text,
)
from inference.engine.grammar import MOST_CHARACTERS, Grammars
from inference.engine.text import ByteText
from tests.engine.parts import HashRunner, finish, solo

names = st.text(st.sampled_from('abcé_ "\\'), min_size=1, max_size=4)
leaves: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(
        lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span},
        st.integers(-50, 50),
        st.integers(0, 99),
    ),
    st.builds(lambda most: {"type": "string", "maxLength": most}, st.integers(0, 6)),
    st.builds(lambda some: {"enum": some}, st.lists(names, min_size=1, max_size=3, unique=True)),
    st.just({"type": "string", "pattern": "^[a-c]{2,4}$"}),
)


def _object(properties: dict[str, Any], required: int) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties][:required],
        "additionalProperties": False,
    }


schemas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(_object, st.dictionaries(names, inner, max_size=3), st.integers(0, 3)),
        st.builds(
            lambda items, least: {
                "type": "array",
                "items": items,
                "minItems": least,
                "maxItems": least + 2,
            },
            inner,
            st.integers(0, 2),
        ),
        st.builds(lambda some: {"anyOf": some}, st.lists(inner, min_size=1, max_size=2)),
    ),
    max_leaves=5,
)


def schema(described: Any) -> Grammar:
    return Grammar(GrammarKind.json_schema, json.dumps(described))


def work(grammar: Grammar, text: Text, **fields: Any) -> Work:
    sampling = Sampling(
        **{"max_tokens": 120, "temperature": 1.0, "seed": 5, **fields}, grammar=grammar
    )
    return Work("one", "acme", tuple(text.encode("Say ")), sampling)


def byte_engine(slots: int = 4) -> Engine:
    return Engine(HashRunner(slots=slots), ByteText(256))


def holds(described: Any, text: str, reason: FinishReason) -> None:
    if reason is FinishReason.length:
        return
    assert reason is FinishReason.stop
    Draft202012Validator(described).validate(json.loads(text))


@given(described=schemas, seed=st.integers(0, 9), most=st.sampled_from([3, 60, 240]))
@settings(max_examples=150, deadline=None)
def test_an_answer_validates_or_was_cut(described: Any, seed: int, most: int) -> None:
    """HashRunner wants noise; only the grammar makes it JSON."""
    engine = byte_engine()
    answer = solo(engine, work(schema(described), engine.text, seed=seed, max_tokens=most))
    assert answer.outcome is not None
    holds(described, answer.text, answer.outcome.reason)


@given(described=schemas, cut=st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_a_resumed_answer_is_the_undisturbed_one(described: Any, cut: int) -> None:
    engine = byte_engine()
    asked = work(schema(described), engine.text)
    whole = solo(engine, asked)
    emitted = tuple(whole.tokens[: min(cut, len(whole.tokens) - 1)])
    resumed = Work("one", "acme", asked.prompt, asked.sampling, emitted)
    again = solo(byte_engine(), resumed)
    assert again.tokens[len(emitted) :] == whole.tokens[len(emitted) :]


def test_batched_answers_are_the_solo_ones() -> None:
    described = _object({"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}, 2)
    engine = byte_engine(slots=6)
    asked = [
        Work(str(n), "acme", (1, 2, n), Sampling(90, 1.0, 0.9, n, grammar=schema(described)))
        for n in range(4)
    ] + [Work(str(n), "acme", (1, 2, n), Sampling(20, 1.0, 0.9, n)) for n in range(4, 6)]
    for each in asked:
        engine.submit(each)
    together = finish(engine)
    for each in asked:
        assert together[each.id].tokens == solo(engine, each).tokens


@pytest.mark.parametrize(
    ("grammar", "fits"),
    [
        (Grammar(GrammarKind.regex, r"(ab){2,3}c?"), {"abab", "ababab", "ababc", "abababc"}),
        (Grammar(GrammarKind.choice, '["yes", "no.*", "né"]'), {"yes", "no.*", "né"}),
    ],
)
def test_regular_expressions_and_choices(grammar: Grammar, fits: set[str]) -> None:
    engine = byte_engine()
    for seed in range(8):
        assert solo(engine, work(grammar, engine.text, seed=seed)).text in fits


@pytest.mark.parametrize(
    "grammar",
    [
        schema({"type": "thing"}),
        schema({"not": {"type": "string"}}),
        schema(False),
        Grammar(GrammarKind.regex, "(a"),
        Grammar(GrammarKind.regex, "a" * (MOST_CHARACTERS + 1)),
        Grammar(GrammarKind.lark, "start: nothing"),
    ],
)
def test_a_grammar_that_cannot_be_followed_is_refused(grammar: Grammar) -> None:
    with pytest.raises(GrammarRefused):
        check(grammar)
    with pytest.raises(ValueError, match=r"."):
        byte_engine().submit(work(grammar, ByteText(256)))


def test_what_a_grammar_does_not_allow_fails_alone() -> None:
    engine = byte_engine()
    asked = work(Grammar(GrammarKind.regex, "a+"), engine.text)
    engine.submit(Work("odd", "acme", asked.prompt, asked.sampling, emitted=(98,)))
    engine.submit(Work("even", "acme", (1, 2), Sampling(5)))
    answers = finish(engine)
    odd, even = answers["odd"].outcome, answers["even"].outcome
    assert odd is not None
    assert odd.reason is FinishReason.failed
    assert even is not None
    assert even.reason is not FinishReason.failed


@given(described=schemas)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_tiny_model_keeps_to_schemas(described: Any, tiny_greedy: Engine) -> None:
    for temperature in (0.0, 1.5):
        asked = work(schema(described), tiny_greedy.text, temperature=temperature)
        answer = solo(tiny_greedy, asked)
        assert answer.outcome is not None
        holds(described, answer.text, answer.outcome.reason)


@pytest.fixture(scope="session")
def tiny_greedy(tiny: Path) -> Engine:
    return load_engine(tiny / "int8", slots=2, threads=2)


def test_the_real_model_keeps_to_schemas(real: Path) -> None:
    engine, text = load_engine(real, slots=4, threads=2), load_text(real)
    person = _object({"name": {"type": "string", "maxLength": 30}, "age": {"type": "integer"}}, 2)
    question = "Describe a person as JSON with name and age."
    prompt = tuple(text.chat([{"role": "user", "content": question}]))
    for n, temperature in enumerate((0.0, 0.7, 1.5, 2.0)):
        sampling = Sampling(80, temperature, 1.0, n, grammar=schema(person))
        engine.submit(Work(str(n), "acme", prompt, sampling))
    for answer in finish(engine).values():
        assert answer.outcome is not None
        holds(person, answer.text, answer.outcome.reason)


def test_special_tokens_stay_outside_of_grammars(tokenizer_folder: Path) -> None:
    matcher = Grammars(load_text(tokenizer_folder)).matcher(Grammar(GrammarKind.regex, r"(.|\n)*"))
    assert matcher is not None
    assert not matcher.allowed(400)[[0, 1]].any()
    assert np.flatnonzero(matcher.allowed(400))[0] == 2, "the end of text is allowed"
