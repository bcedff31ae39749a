"""Sampling."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from inference.engine import Logits, Sampling
from inference.engine.sampler import sample, uniform

rows = arrays(
    np.float32, st.tuples(st.integers(1, 6), st.just(40)), elements=st.floats(-9, 9, width=32)
)
samplings = st.builds(
    Sampling,
    max_tokens=st.just(1),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    seed=st.integers(-(2**63), 2**63),
)


def nucleus(row: Any, temperature: float, top_p: float) -> set[int]:
    """By the book: likeliest first until they hold top_p."""
    weights = np.exp((row - row.max()).astype(np.float64) / temperature)
    weights /= weights.sum()
    order = np.argsort(-weights, kind="stable")
    count = int((np.cumsum(weights[order]) < top_p - 1e-6).sum()) + 1
    return {int(token) for token in order if weights[token] >= weights[order[count - 1]] * 0.9999}


@given(logits=rows, data=st.data())
def test_a_row_does_not_depend_on_its_neighbours(logits: Logits, data: st.DataObject) -> None:
    chosen = [data.draw(samplings) for _ in logits]
    together = sample(logits, chosen, range(len(logits)))
    alone = [sample(logits[[n]], [chosen[n]], [n])[0] for n in range(len(logits))]
    assert together == alone


@given(logits=rows, sampling=samplings, position=st.integers(0, 1000))
@settings(max_examples=200)
def test_a_drawn_token_is_in_the_nucleus(logits: Logits, sampling: Sampling, position: int) -> None:
    token = sample(logits[:1], [sampling], [position])[0]
    if sampling.temperature == 0:
        assert token == logits[0].argmax()
    else:
        assert token in nucleus(logits[0], sampling.temperature, sampling.top_p)


def test_draws_follow_the_distribution() -> None:
    row = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], np.float32))
    drawn = [sample(row, [Sampling(1, 1.0, 0.9, seed)], [3])[0] for seed in range(4000)]
    shares = np.bincount([token for token in drawn if token is not None], minlength=4) / 4000
    assert shares == pytest.approx(np.array([0.5, 0.3, 0.15, 0]) / 0.95, abs=0.03)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_no_number_draws_nothing_and_the_others_do(bad: float) -> None:
    logits = np.array([[1, bad, 2], [1, 3, 2], [-np.inf, 1, 0]], np.float32)
    drawn = sample(logits, [Sampling(1), Sampling(1), Sampling(1, 1.0)], [0, 0, 0])
    assert drawn[0] is None
    assert drawn[1] == 1
    assert drawn[2] in {1, 2}


def test_uniform_is_uniform_over_seeds_and_positions() -> None:
    over_positions = [uniform(42, position) for position in range(5000)]
    over_seeds = [uniform(seed, 0) for seed in range(5000)]
    for values in (over_positions, over_seeds):
        counts, _ = np.histogram(values, bins=10, range=(0, 1))
        assert abs(counts - 500).max() < 110
    assert abs(np.corrcoef(over_positions, over_seeds)[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_tokens", 0), ("temperature", -0.1), ("temperature", float("nan")), ("top_p", 0.0)],
)
def test_impossible_sampling_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        Sampling(**{"max_tokens": 1, field: value})


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="stop string"):
        Sampling(1, stop=("",))
