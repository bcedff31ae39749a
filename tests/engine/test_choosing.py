"""What the engine promises of any sampling: batched is solo, resumed is undisturbed."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine import Delta, Engine, Logprob, Sampling, Work
from inference.engine.text import ByteText
from tests.engine.parts import HashRunner
from tests.engine.test_sampler import samplings


def engine() -> Engine:
    return Engine(HashRunner(slots=6), ByteText(256))


def run(*works: Work) -> dict[str, list[Delta]]:
    """Each work's deltas."""
    found: dict[str, list[Delta]] = {work.id: [] for work in works}
    one = engine()
    for work in works:
        one.submit(work)
    while one.stats().running + one.stats().waiting:
        for delta in one.step():
            found[delta.id].append(delta)
        one.check()
    return found


def tokens(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.tokens]


def logprobs(deltas: list[Delta]) -> list[Logprob]:
    return [each for delta in deltas for each in delta.logprobs]


some = samplings.map(lambda sampling: replace(sampling, max_tokens=24))


@given(chosen=st.lists(some, min_size=2, max_size=6))
@settings(max_examples=60, deadline=None)
def test_batched_is_solo(chosen: list[Sampling]) -> None:
    works = [Work(str(n), "acme", (1, 2, n), each) for n, each in enumerate(chosen)]
    together = run(*works)
    for work in works:
        alone = run(work)[work.id]
        assert tokens(together[work.id]) == tokens(alone)
        assert logprobs(together[work.id]) == logprobs(alone)


@given(sampling=some, cut=st.integers(0, 23))
@settings(max_examples=100, deadline=None)
def test_resumed_is_undisturbed(sampling: Sampling, cut: int) -> None:
    work = Work("one", "acme", (5, 6, 7), sampling)
    whole = run(work)["one"]
    cut = min(cut, len(tokens(whole)) - 1)
    resumed = run(replace(work, emitted=tuple(tokens(whole)[:cut])))["one"]
    assert tokens(resumed) == tokens(whole)[cut:]
    assert logprobs(resumed) == logprobs(whole)[cut:]


@given(sampling=some)
@settings(max_examples=30, deadline=None)
def test_each_token_has_its_log_probability_where_asked(sampling: Sampling) -> None:
    for delta in run(Work("one", "acme", (9,), sampling))["one"]:
        asked = sampling.logprobs is not None
        assert len(delta.logprobs) == (len(delta.tokens) if asked else 0)
        assert all(len(each.top) == sampling.logprobs for each in delta.logprobs)


def test_a_stop_token_ends_the_answer_and_is_no_part_of_it() -> None:
    work = Work("one", "acme", (1, 2), Sampling(50, 1.0, seed=3))
    said = tokens(run(work)["one"])
    ended = run(replace(work, sampling=replace(work.sampling, stop_token_ids=(said[5],))))["one"]
    assert tokens(ended) == said[: said.index(said[5]) + 1]
    assert ended[-1].outcome is not None
    assert ended[-1].outcome.reason == "stop"
    text = b"".join(bytes([token]) for token in said[: said.index(said[5])])
    assert text.decode("utf-8", "replace").startswith("".join(delta.text for delta in ended))


@pytest.mark.parametrize("penalty", ["presence_penalty", "frequency_penalty"])
def test_penalties_make_an_answer_less_repetitive(penalty: str) -> None:
    plain = Sampling(60, 0.0, logit_bias=((7 + 60, 30.0),))
    said = tokens(run(Work("one", "acme", (1,), plain))["one"])
    kinds = len({*said})
    punished = replace(plain, **{penalty: 40.0})  # type: ignore[arg-type]
    assert len({*tokens(run(Work("one", "acme", (1,), punished))["one"])}) > kinds
