"""Which of an answer's tokens are thinking."""

import pytest

from inference.engine.thought import Thought, prompted


@pytest.mark.parametrize(
    ("prompt", "pieces", "tokens"),
    [
        (b"", [b"<think>", b"a", b"b", b"</think>", b"c", b"d"], 4),
        (b"", [b"\n", b"<think>", b"a", b"</think>"], 4),
        (b"", [b"<th", b"ink>", b"a</th", b"ink>b", b"c"], 4),
        (b"say\n<think>\n", [b"a", b"</think>", b"c"], 2),
        (b"<think>", [b"a", b"b"], 2),
        (b"", [b"no", b"<think>", b"a", b"</think>"], 0),
        (b"", [b"<think>", b"a", b"</think>", b"<think>", b"b", b"</think>"], 3),
        (b"", [b"<think></think>", b"x"], 1),
        (b"", [b"<thin", b" air"], 0),
        (b"", [], 0),
    ],
)
def test_thinking_is_what_an_answer_begins_with_between_its_tags(
    prompt: bytes, pieces: list[bytes], tokens: int
) -> None:
    thought = Thought(prompt)
    for piece in pieces:
        thought.push(piece)
    assert thought.tokens == tokens


def test_only_the_end_of_a_prompt_is_looked_at() -> None:
    pieces = [bytes([byte]) for byte in range(256)]
    assert prompted([*b"a long story <think>", 999], pieces) == b"g story <think>"
