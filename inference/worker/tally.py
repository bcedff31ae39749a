"""What a remote model's answer comes to: counted here, compared with what its server counted."""

from dataclasses import dataclass

from inference.engine import Delta, FinishReason, Outcome, Text
from inference.engine.thought import Thought
from inference.worker.openai import Usage

_SLACK_TOKENS, _SLACK_SHARE = 16, 0.1


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Tokens that we and the server counted, of `kind` prompt or completion."""

    kind: str
    ours: int
    theirs: int


class Tally:
    """Counts one answer, a delta for each event.

    With the model's tokenizer here, an event's text counts the tokens it makes; without, an event
    counts one. Never more than `most` are counted: what comes beyond is delivered with the end.
    """

    def __init__(self, work: str, *, text: Text | None, prompt_tokens: int, most: int) -> None:
        self._work = work
        self._text = text
        self._prompt_tokens = prompt_tokens
        self._most = most
        self._beyond = ""
        self._thought = Thought()
        self.completion_tokens = 0
        self.usage: Usage | None = None

    def piece(self, text: str) -> Delta | None:
        """What an event delivers now, if anything."""
        tokens = (0,) if self._text is None else tuple(self._text.encode(text))
        tokens = tokens[: self._most - self.completion_tokens]
        if not tokens:
            self._beyond += text
            return None
        self._thought.push(text.encode(), len(tokens))
        delta = Delta(self._work, self.completion_tokens, tokens, self._beyond + text)
        self._beyond = ""
        self.completion_tokens += len(tokens)
        return delta

    def end(self, reason: FinishReason, error: str = "") -> Delta:
        """The last delta."""
        own = reason in {FinishReason.stop, FinishReason.length}
        outcome = Outcome(
            reason=reason,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=min(self.prompt_tokens, self.usage.cached_tokens if self.usage else 0),
            completion_tokens=self.completion_tokens,
            error=error,
            reasoning_tokens=self._thought.tokens,
        )
        return Delta(self._work, self.completion_tokens, (), self._beyond if own else "", outcome)

    @property
    def prompt_tokens(self) -> int:
        """Ours with the tokenizer; without, the server's, and never more than was estimated."""
        if self._text is not None or self.usage is None or self.usage.prompt_tokens < 1:
            return self._prompt_tokens
        return min(self._prompt_tokens, self.usage.prompt_tokens)

    def mismatches(self) -> list[Mismatch]:
        """Where the server's count is further from ours than 16 tokens and a tenth."""
        if self.usage is None:
            return []
        both = [
            Mismatch("prompt", self.prompt_tokens, self.usage.prompt_tokens),
            Mismatch("completion", self.completion_tokens, self.usage.completion_tokens),
        ]
        return [
            each
            for each in both
            if abs(each.ours - each.theirs) > max(_SLACK_TOKENS, _SLACK_SHARE * each.theirs)
        ]
