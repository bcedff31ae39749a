"""One request on its way through the engine."""

from inference.engine.delta import Delta, FinishReason, Logprob, Outcome
from inference.engine.drafts import Drafts
from inference.engine.odds import Matcher, Odds
from inference.engine.sampler import Drawn
from inference.engine.stops import Stops
from inference.engine.text import Text
from inference.engine.thought import Thought, prompted
from inference.engine.work import Work


class Sequence:
    """A work's tokens, how far its slot has computed them, and how its text ends.

    `computed` tokens from the front are in the slot's cache, of which `cached` were found there;
    `number` is its place in line and `since` the scheduler's step at its arrival; of what has
    `begun` something was run; what `stays` gives way to no other. The text delivered is a function
    of the completion's tokens alone: that is why replaying `work.emitted` restores it exactly.
    """

    def __init__(
        self, work: Work, text: Text, matcher: Matcher | None = None, *, free: bool = False
    ) -> None:
        self.work = work
        self.free = free
        self.drafts = Drafts()
        self.tokens = [*work.prompt]
        self.computed = 0
        self.cached = 0
        self.slot: int | None = None
        self.number = self.since = 0
        self.stays = self._rewound = False
        self.begun = False
        self.end: FinishReason | None = None
        self.error = ""
        self.odds = Odds(work.sampling, work.prompt, matcher)
        self._ends = text.eos | {*work.sampling.stop_token_ids}
        self._logprobs: list[Logprob] = []
        self._text = ""
        self._room = min(work.sampling.max_tokens, text.context - len(work.prompt))
        self._detokenizer = text.stream()
        self._stops = Stops(work.sampling.stop)
        self._pieces = text.pieces
        self._thought = Thought(prompted(work.prompt, text.pieces))
        for token in work.emitted:
            if self.end is None:
                self._accept(token)
        self._delivered = self.completion

    @property
    def completion(self) -> int:
        """How many tokens have been sampled or replayed."""
        return len(self.tokens) - len(self.work.prompt)

    @property
    def decoding(self) -> bool:
        """Whether the next token is to be run by itself: one of the answer, or the last known."""
        first = len(self.tokens) - 1 if self.free else len(self.work.prompt)
        return first <= self.computed < len(self.tokens)

    @property
    def is_behind(self) -> bool:
        """Whether nothing of it was run that an earlier attempt had not run before."""
        emitted = len(self.work.emitted)
        before = len(self.work.prompt) + emitted - 1 if emitted else 0
        return not self.begun or self.computed < before

    @property
    def due(self) -> bool:
        """Whether the next token run is the last known one, so that another is sampled after it.

        An earlier attempt's tokens are run again one by one, as they were then: a chunk of them
        would give the same numbers only to the last bits, and so another text now and then.
        """
        return self.computed == len(self.tokens) - 1

    @property
    def place(self) -> int:
        """The slot it holds. Raises RuntimeError if it holds none."""
        if self.slot is None:
            raise RuntimeError(f"work {self.work.id} runs without a slot")
        return self.slot

    def begin(self, length: int) -> None:
        """Its first `length` tokens have been put into its slot."""
        self.computed = length
        if not self._rewound:
            self.cached = min(length, len(self.work.prompt))

    def rewind(self) -> None:
        """Its slot is gone: everything is to be computed again."""
        self.computed = 0
        self._rewound = True

    def chunk(self, size: int) -> list[int]:
        """The next at most `size` tokens of the prompt; of a free sequence, of all it has.

        Chunks begin at multiples of `size`, so that neither neighbours nor an earlier attempt
        change how a prompt is computed; a free sequence's anywhere.
        """
        last = len(self.tokens if self.free else self.work.prompt)
        return self.tokens[self.computed : min(self.computed + size, last)]

    def draft(self, most: int) -> list[int]:
        """At most `most` tokens that may come after the next one; never the answer's last."""
        return self.drafts.propose(self.tokens, min(most, self._room - self.completion - 1))

    def take(self, drawn: Drawn) -> None:
        """Go on by a sampled token."""
        if drawn.logprob is not None:
            self._logprobs.append(drawn.logprob)
        self._text += self._accept(drawn.token)

    def finish(self, reason: FinishReason, error: str = "") -> Delta:
        """End from outside. Held-back text stays undelivered: it is no token's yet."""
        self.end, self.error = reason, error
        return self.news()

    def news(self) -> Delta:
        """What it said since the last time, and the outcome if it has ended."""
        position, self._delivered = self._delivered, self.completion
        tokens = tuple(self.tokens[len(self.work.prompt) + position :])
        logprobs, self._logprobs = tuple(self._logprobs), []
        text, self._text = self._text, ""
        return Delta(self.work.id, position, tokens, text, self._outcome(), logprobs)

    def _accept(self, token: int) -> str:
        self.tokens.append(token)
        self.odds.note(token)
        if token < len(self._pieces):
            self._thought.push(self._pieces[token])
        if token in self._ends:
            self.end = FinishReason.stop
            return self._stops.flush()
        text, stopped = self._stops.push(self._detokenizer.push(token))
        if stopped:
            self.end = FinishReason.stop
        elif self.completion >= self._room:
            self.end = FinishReason.length
            text += self._stops.flush()
        return text

    def _outcome(self) -> Outcome | None:
        if self.end is None:
            return None
        return Outcome(
            self.end,
            len(self.work.prompt),
            self.cached,
            self.completion,
            self.error,
            reasoning_tokens=self._thought.tokens,
        )
