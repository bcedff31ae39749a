"""Steps of a runner whose numbers do not depend on how tokens are put together into calls.

What decodes, a draft behind each while few do, and the chunks of prompts are the rows of one call.
A draft's tokens are kept as far as they are the very tokens that would have been drawn: the text
is the same with drafts and without, whatever the sampling.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

from inference.engine.ran import Ran, took
from inference.engine.runner import Logits, RowRunner
from inference.engine.sampler import Drawn, Sampler
from inference.engine.scheduler import Chunks
from inference.engine.sequence import Sequence

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Part:
    """A sequence's rows: `tokens` from what it has computed on, then a draft."""

    sequence: Sequence
    tokens: list[int]
    draft: list[int]
    prompt: int

    @property
    def ends(self) -> bool:
        """Whether a token is to be drawn after them."""
        return self.sequence.computed + len(self.tokens) == len(self.sequence.tokens)

    @property
    def rows(self) -> list[int]:
        return self.tokens + self.draft


class Together:
    """A step in one call; a second one only for prompts that begin with what the first computes.

    Up to `cheap` rows cost little more than one, since the weights are read once for all of them:
    steps with fewer are filled up with drafts.
    """

    def __init__(self, runner: RowRunner, cheap: int) -> None:
        self._runner = runner
        self._cheap = cheap
        self._sampler = Sampler()

    def run(self, decodes: list[Sequence], batches: Iterable[Chunks]) -> Iterator[Ran]:
        """Compute a step; each batch is taken once what came before has been computed."""
        parts = self._decodes(decodes)
        for batch in batches:
            parts += [_Part(sequence, chunk, [], len(chunk)) for sequence, chunk in batch]
            yield from self._call(parts)
            parts = []
        if parts:
            yield from self._call(parts)

    def _decodes(self, sequences: list[Sequence]) -> list[_Part]:
        room = self._cheap - len(sequences)
        parts = []
        for sequence in sequences:
            draft = sequence.draft(room) if room > 0 else []
            room -= len(draft)
            parts.append(_Part(sequence, [sequence.tokens[sequence.computed]], draft, 0))
        return parts

    def _call(self, parts: list[_Part]) -> Iterable[Ran]:
        """If the call raises, each sequence is tried alone, so that one fails alone."""
        ending = [part for part in parts if part.ends]
        going_on = [part for part in parts if not part.ends]
        try:
            logits = self._logits(parts)
        except Exception as error:
            if len(parts) == 1:
                return [Ran(parts[0].sequence, error=error)]
            log.warning("a pass of %d raised; each is tried alone", len(parts), exc_info=True)
            return [ran for part in parts for ran in self._call([replace(part, draft=[])])]
        for part in parts:
            part.sequence.computed += len(part.tokens)
        return [Ran(part.sequence, part.prompt) for part in going_on] + self._draw(ending, logits)

    def _logits(self, parts: list[_Part]) -> Logits:
        """After the last token of each part that ends, and after each of its draft."""
        slots: list[int] = []
        tokens: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        for part in parts:
            end = len(tokens) + len(part.rows)
            if part.ends:
                wanted += range(end - len(part.draft) - 1, end)
            first = part.sequence.computed
            slots += [part.sequence.place] * len(part.rows)
            positions += range(first, first + len(part.rows))
            tokens += part.rows
        return self._runner.run(slots, tokens, positions, wanted)

    def _draw(self, parts: list[_Part], logits: Logits) -> list[Ran]:
        """A token for each, and more where its draft goes on to come true."""
        ran: dict[str, Ran] = {}
        firsts = accumulate((1 + len(part.draft) for part in parts[:-1]), initial=0)
        pending = list(zip(parts, firsts, strict=True)) if parts else []
        accepted = 0
        while pending:
            drawn = self._sample(pending, logits)
            going = []
            for (part, row), found in zip(pending, drawn, strict=True):
                sequence = part.sequence
                ran[sequence.work.id] = one = took(sequence, found, part.prompt)
                right = one.error is None and sequence.tokens[-1:] == part.draft[accepted:][:1]
                if right and sequence.end is None:
                    sequence.computed += 1
                    going.append((part, row + 1))
                else:
                    sequence.drafts.judge(len(part.draft), accepted + right)
            pending, accepted = going, accepted + 1
        return list(ran.values())

    def _sample(
        self, pending: list[tuple[_Part, int]], logits: Logits
    ) -> list[Drawn | Exception | None]:
        """A row that raises, by its grammar, fails alone."""
        odds = [part.sequence.odds for part, _ in pending]
        rows = [row for _, row in pending]
        chosen = logits if rows == list(range(len(logits))) else logits[rows]
        try:
            return [*self._sampler.sample(chosen, odds)]
        except Exception as error:
            if len(pending) == 1:
                return [error]
            return [drawn for one in pending for drawn in self._sample([one], logits)]
