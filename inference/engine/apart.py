"""Steps of a runner whose numbers depend on how tokens are put together into calls.

Every token is run in the same kind of call whatever else happens: an answer's one by one, a
prompt's in the chunks that its length gives.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import compress

from inference.engine.ran import Ran, took
from inference.engine.runner import Runner
from inference.engine.sampler import Sampler
from inference.engine.scheduler import Chunks
from inference.engine.sequence import Sequence

log = logging.getLogger(__name__)


class Apart:
    """All decodes in a call, and each chunk in one of its own."""

    def __init__(
        self, runner: Runner, twins: Callable[[Sequence], list[Sequence]] = lambda one: []
    ) -> None:
        self._runner = runner
        self._twins = twins
        self._sampler = Sampler()

    def run(self, decodes: list[Sequence], batches: Iterable[Chunks]) -> Iterator[Ran]:
        """Compute a step; each batch is taken once what came before has been computed."""
        if decodes:
            yield from self._decode(decodes)
        for batch in batches:
            for sequence, chunk in batch:
                yield from self._prefill(sequence, chunk)

    def _decode(self, sequences: list[Sequence]) -> Iterable[Ran]:
        """A token for each; if the batch raises, each is tried alone, so that one fails alone."""
        due = [sequence.due for sequence in sequences]
        try:
            logits = self._runner.decode(
                [sequence.place for sequence in sequences],
                [sequence.tokens[sequence.computed] for sequence in sequences],
                [sequence.computed for sequence in sequences],
            )
            sampled = list(compress(sequences, due))
            odds = [sequence.odds for sequence in sampled]
            drawn = self._sampler.sample(logits if all(due) else logits[due], odds)
        except Exception as error:
            if len(sequences) == 1:
                return [Ran(sequences[0], error=error)]
            log.warning("a decode of %d raised; each is tried alone", len(sequences), exc_info=True)
            return [ran for sequence in sequences for ran in self._decode([sequence])]
        for sequence in sequences:
            sequence.computed += 1
        return [took(*each) for each in zip(sampled, drawn, strict=True)]

    def _prefill(self, sequence: Sequence, chunk: list[int]) -> list[Ran]:
        """A chunk; at a prompt's last one, its twins get what it has and are drawn with it."""
        try:
            logits = self._runner.prefill(sequence.place, chunk, sequence.computed)
            last = sequence.computed + len(chunk) == len(sequence.tokens)
            rows = [sequence, *self._twins(sequence)] if last else []
            odds = [one.odds for one in rows]
            drawn = self._sampler.sample(logits.repeat(len(rows), axis=0), odds) if rows else []
        except Exception as error:
            return [Ran(sequence, error=error)]
        sequence.computed += len(chunk)
        for twin in rows[1:]:
            self._runner.copy(sequence.place, twin.place, sequence.computed)
            twin.begin(sequence.computed)
        if not last:
            return [Ran(sequence, len(chunk))]
        read = [len(chunk)] + [0] * len(rows)
        return [took(*each) for each in zip(rows, drawn, read, strict=False)]
