"""Deltas that follow each other, in one."""

from inference.engine import Delta, FinishReason, Logprob, Outcome


def test_two_deltas_in_one_say_what_both_said() -> None:
    end = Outcome(FinishReason.stop, 3, 0, 4)
    first = Delta("one", 1, (5, 6), "ab", None, (Logprob(-1.0), Logprob(-2.0)))
    second = Delta("one", 3, (7,), "c", end, (Logprob(-3.0),))
    assert first.then(second) == Delta(
        "one", 1, (5, 6, 7), "abc", end, (Logprob(-1.0), Logprob(-2.0), Logprob(-3.0))
    )
