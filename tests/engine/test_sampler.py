"""Sampling: many rows at once give what a plain one-row reference gives."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from inference.engine import Logits, Sampling
from inference.engine.odds import Odds
from inference.engine.sampler import Sampler, uniform

VOCABULARY = 600
SAMPLER = Sampler()

rows = arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.just(VOCABULARY)),
    elements=st.floats(-9, 9, width=32),
    fill=st.floats(-9, 0, width=32),
)
samplings = st.builds(
    Sampling,
    max_tokens=st.just(1),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    top_k=st.sampled_from([0, 0, 1, 7, 300, 10_000]),
    min_p=st.sampled_from([0.0, 0.0, 0.001, 0.3]),
    presence_penalty=st.sampled_from([0.0, 1.5, -2.0]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    logit_bias=st.sampled_from([(), ((3, 5.0), (5, -100.0)), ((10_000, 3.0),)]),
    seed=st.integers(-(2**63), 2**63),
    logprobs=st.sampled_from([None, 0, 3]),
)
tokens = st.lists(st.integers(0, VOCABULARY - 1), max_size=8)


class Only:
    """A grammar that allows some tokens, always the same."""

    def __init__(self, allowed: set[int]) -> None:
        self.tokens = allowed

    def take(self, token: int) -> None:
        pass

    def allowed(self, width: int) -> Any:
        return np.isin(np.arange(width), [*self.tokens])


@st.composite
def odds(draw: st.DrawFn) -> Odds:
    matcher = draw(st.none() | st.builds(Only, st.sets(st.integers(0, VOCABULARY - 1), min_size=1)))
    made = Odds(draw(samplings), tuple(draw(tokens)), matcher)
    for token in draw(tokens):
        made.note(token)
    return made


def reference(row: Any, one: Odds, prompt: Any, said: list[int], matcher: Any) -> int:
    """One row by the book."""
    sampling, scores = one.sampling, row.copy()
    for token in {*prompt, *said} if sampling.repetition_penalty != 1 else {*said}:
        scale = np.float32(sampling.repetition_penalty)
        scores[token] = scores[token] / scale if scores[token] > 0 else scores[token] * scale
        scores[token] -= np.float32(sampling.frequency_penalty) * np.float32(said.count(token))
        scores[token] -= np.float32(sampling.presence_penalty * (token in said))
    for token, bias in sampling.logit_bias:
        if token < len(scores):
            scores[token] += np.float32(bias)
    if matcher is not None:
        scores[~matcher.allowed(len(scores))] = -np.inf
    best = int(scores.argmax())
    if sampling.temperature == 0:
        return best
    weights = np.exp((scores - scores[best]) * np.float32(1 / sampling.temperature))
    order = [int(n) for n in np.argsort(-weights, kind="stable") if weights[n] > 0]
    order = [n for n in order if weights[n] >= np.float32(sampling.min_p)]
    order = order[: sampling.top_k or None]
    held = np.cumsum(weights[order], dtype=np.float64)
    if sampling.top_p < 1:
        order = order[: int(np.searchsorted(held, sampling.top_p * held[-1])) + 1]
    if sampling.top_p == 1 and not sampling.top_k and not sampling.min_p:
        order = sorted(order)
    held = np.cumsum(weights[order], dtype=np.float64)
    u = uniform(sampling.seed, one.position)
    return order[min(int(np.searchsorted(held, u * held[-1], side="right")), len(order) - 1)]


def sample(logits: Logits, *some: Sampling) -> list[int | None]:
    """Tokens at position 0 after no prompt."""
    drawn = SAMPLER.sample(logits, [Odds(each, ()) for each in some])
    return [None if each is None else each.token for each in drawn]


@given(logits=rows, data=st.data())
def test_a_row_does_not_depend_on_its_neighbours(logits: Logits, data: st.DataObject) -> None:
    chosen = [data.draw(odds()) for _ in logits]
    before = logits.copy()
    together = SAMPLER.sample(logits, chosen)
    alone = [Sampler().sample(logits[[n]], [chosen[n]])[0] for n in range(len(logits))]
    assert together == alone
    assert np.array_equal(logits, before), "the runner's logits stay as they are"


@given(logits=rows, data=st.data())
@settings(max_examples=300)
def test_a_token_is_what_the_book_says(logits: Logits, data: st.DataObject) -> None:
    prompt, said, sampling = data.draw(tokens), data.draw(tokens), data.draw(samplings)
    matcher = data.draw(st.none() | st.builds(Only, st.sets(st.integers(0, 599), min_size=1)))
    one = Odds(sampling, tuple(prompt), matcher)
    for token in said:
        one.note(token)
    [drawn] = SAMPLER.sample(logits[:1], [one])
    assert drawn is not None
    assert drawn.token == reference(logits[0], one, prompt, said, matcher)


def test_rows_do_not_depend_on_their_neighbours_at_a_real_size() -> None:
    logits = np.random.default_rng(3).normal(0, 4, (9, 49_153)).astype(np.float32)
    kinds = [
        Sampling(1, 0.8, 0.9, 1),
        Sampling(1, 1.0, 1.0, 2),
        Sampling(1, 2.0, 0.999, 3),
        Sampling(1, 1.0, 1.0, 4, top_k=20_000),
        Sampling(1, 0.7, 0.95, 5, top_k=40, min_p=0.02),
        Sampling(1),
        Sampling(1, frequency_penalty=1.0),
        Sampling(1, 1.0, 1.0, 6, logprobs=5),
        Sampling(1, 1.0, 0.5, 7, min_p=0.1),
    ]
    for position in range(30):
        some = [Odds(each, (1, 2)) for each in kinds]
        for one in some:
            one.position = position
        together = SAMPLER.sample(logits, some)
        assert together == [SAMPLER.sample(logits[[n]], [some[n]])[0] for n in range(9)]


@given(row=rows, sampling=samplings, said=tokens)
def test_noting_tokens_again_restores_the_odds(
    row: Logits, sampling: Sampling, said: list[int]
) -> None:
    once, again = Odds(sampling, (1, 2, 3)), Odds(sampling, (1, 2, 3))
    for token in said:
        drawn = SAMPLER.sample(row[:1], [once])
        assert drawn is not None
        once.note(token)
    for token in said:
        again.note(token)
    assert SAMPLER.sample(row[:1], [once]) == SAMPLER.sample(row[:1], [again])


def test_draws_follow_the_distribution() -> None:
    row = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], np.float32))
    for sampling, shares in (
        (Sampling(1, 1.0, 0.9), [0.5, 0.3, 0.15, 0]),
        (Sampling(1, 1.0), [0.5, 0.3, 0.15, 0.05]),
        (Sampling(1, 1.0, top_k=2), [0.5, 0.3, 0, 0]),
        (Sampling(1, 1.0, min_p=0.25), [0.5, 0.3, 0.15, 0]),
    ):
        drawn = [sample(row, replace(sampling, seed=seed))[0] for seed in range(3000)]
        found = np.bincount([token for token in drawn if token is not None], minlength=4) / 3000
        assert found == pytest.approx(np.array(shares) / sum(shares), abs=0.035)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_no_number_draws_nothing_and_the_others_do(bad: float) -> None:
    logits = np.array([[1, bad, 2], [1, 3, 2], [-np.inf, 1, 0], [1, bad, 2]], np.float32)
    drawn = sample(logits, Sampling(1), Sampling(1), Sampling(1, 1.0), Sampling(1, 1.0, 0.9))
    assert drawn[0] is None
    assert drawn[1] == 1
    assert drawn[2] in {1, 2}
    assert drawn[3] is None


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_grammar_that_allows_nothing_draws_nothing(temperature: float) -> None:
    odds = [Odds(Sampling(1, temperature), (), Only(set())), Odds(Sampling(1, temperature), ())]
    nothing, something = SAMPLER.sample(np.ones((2, 8), np.float32), odds)
    assert nothing is None
    assert something is not None


def test_logprobs_are_the_models_own() -> None:
    row = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], np.float32))
    sampling = Sampling(1, 0.0, logit_bias=((3, 50.0),), logprobs=2)
    [drawn] = SAMPLER.sample(row + 7, [Odds(sampling, ())])
    assert drawn is not None
    assert drawn.token == 3
    assert drawn.logprob is not None
    assert drawn.logprob.logprob == pytest.approx(np.log(0.05), abs=1e-5)
    assert [token for token, _ in drawn.logprob.top] == [0, 1]
    assert np.exp([each for _, each in drawn.logprob.top]) == pytest.approx([0.5, 0.3], abs=1e-5)


def test_uniform_is_uniform_over_seeds_and_positions() -> None:
    over_positions = [uniform(42, position) for position in range(5000)]
    over_seeds = [uniform(seed, 0) for seed in range(5000)]
    for values in (over_positions, over_seeds):
        counts, _ = np.histogram(values, bins=10, range=(0, 1))
        assert abs(counts - 500).max() < 110
    assert abs(np.corrcoef(over_positions, over_seeds)[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("min_p", 1.1),
        ("top_k", -1),
        ("repetition_penalty", 0.0),
        ("logprobs", 21),
    ],
)
def test_impossible_sampling_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        Sampling(**{"max_tokens": 1, field: value})


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="stop string"):
        Sampling(1, stop=("",))
