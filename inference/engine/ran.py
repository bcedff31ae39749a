"""What a step did to one sequence."""

from dataclasses import dataclass

from inference.engine.sampler import Drawn
from inference.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Ran:
    """`prompt` tokens of it were computed, or it failed; what it said since is in the sequence."""

    sequence: Sequence
    prompt: int = 0
    error: Exception | None = None


class NoToken(ArithmeticError):
    """Logits that are no numbers, or allow no token."""

    def __init__(self) -> None:
        super().__init__("the logits are no numbers, or allow no token")


def took(sequence: Sequence, drawn: Drawn | Exception | None, prompt: int = 0) -> Ran:
    """Give a sequence the token that was drawn for it, if one was."""
    if drawn is None:
        return Ran(sequence, prompt, NoToken())
    if isinstance(drawn, Exception):
        return Ran(sequence, prompt, drawn)
    sequence.take(drawn)
    return Ran(sequence, prompt)
