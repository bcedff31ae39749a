"""A sentence encoder at work: a request's texts go in together, its vectors come out at once."""

from collections.abc import Iterator

from inference.engine import Sampling, Texts
from inference.worker.held import Held
from inference.worker.station import Station

_NOTHING_SAMPLED = Sampling(max_tokens=1)


class EmbeddingStation(Station):
    """Runs claimed requests for vectors. Whoever takes one over begins anew: nothing was out."""

    def _works(self, held: Held) -> Iterator[Texts]:
        """A request as the embedder takes it."""
        job = held.claim.job
        yield Texts(
            id=held.choices.works[0],
            tenant=str(job.organization),
            prompt=job.prompt,
            lengths=job.lengths,
            sampling=_NOTHING_SAMPLED,
            priority=held.urgency,
        )
