"""A request that is to be answered again by a shadow: how it was answered, packed, and tried."""

from collections.abc import Container
from dataclasses import asdict, dataclass, replace
from random import random
from threading import Event
from time import monotonic, time
from typing import Any

import orjson

from inference.catalog.offers import held_offers
from inference.catalog.shadows import Made, Pair
from inference.engine import Delta, FinishReason, Outcome, Sampling, Work
from inference.jobs import PRIORITIES, Job
from kit.envelope import Place, Ring, sealed_under
from tenants.models import Retention

_WHOLE = frozenset({FinishReason.stop, FinishReason.length})


def drawn(job: Job) -> str:
    """The shadow that is to answer it again, "" for none: as its model's share has it, and never
    for an organization that keeps nothing, as what was asked has to lie somewhere meanwhile."""
    offer = held_offers().get(job.model)
    if offer is None or not offer.shadow or random() * 100 >= offer.shadow_percent:  # noqa: S311
        return ""
    plain = job.n == 1 and not job.lengths and bool(job.prompt)
    return offer.shadow if plain and job.retention != Retention.NOTHING else ""


class Answering:
    """An answer as an engine makes it: its tokens, and when they came."""

    def __init__(self) -> None:
        self._began = monotonic()
        self._first: float | None = None
        self._last = self._began
        self._tokens: list[int] = []
        self.outcome: Outcome | None = None
        self.done = Event()

    def note(self, delta: Delta) -> None:
        """One more step of it."""
        self._last = monotonic()
        if self._first is None and delta.tokens:
            self._first = self._last
        self._tokens += delta.tokens
        if delta.outcome is not None:
            self.outcome = delta.outcome
            self.done.set()

    @property
    def made(self) -> Made | None:
        """The answer, if it is whole and a model made it."""
        whole = self.outcome is not None and self.outcome.reason in _WHOLE
        if not whole or self._first is None or (self.outcome and self.outcome.cache):
            return None
        return Made(tuple(self._tokens), *(self._ms(at) for at in (self._first, self._last)))

    def _ms(self, at: float) -> float:
        return round((at - self._began) * 1000, 1)


@dataclass(slots=True)
class Original:
    """A request that runs, and of which a shadow is to have a copy once it has its answer."""

    job: Job
    ring: Ring
    shadow: str
    answer: Answering


@dataclass(frozen=True, slots=True)
class Trial:
    """What a shadow is to answer again, and how it was answered. `asked` and the answer's tokens
    lie sealed under the organization's data key."""

    id: str
    organization: int
    model: str
    model_version: str
    at: float
    """Unix time of the answer."""
    prompt_tokens: int
    first_ms: float
    total_ms: float
    tries: int = 0
    sealed: bytes = b""

    @classmethod
    def of(cls, original: Original, made: Made) -> "Trial":
        """Of a request that has its answer."""
        job = original.job
        found = cls(
            id=str(job.id),
            organization=job.organization,
            model=job.model,
            model_version=job.model_version,
            at=time(),
            prompt_tokens=job.input_tokens,
            first_ms=made.first_ms,
            total_ms=made.total_ms,
        )
        asked = {"prompt": job.prompt, "sampling": asdict(job.sampling), "tokens": made.tokens}
        return replace(found, sealed=original.ring.seal(orjson.dumps(asked), found._place))

    def dump(self) -> bytes:
        """As it waits."""
        figures = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return orjson.dumps(figures | {"sealed": ""}) + b"\n" + self.sealed

    @classmethod
    def load(cls, stored: bytes) -> "Trial":
        """As it waited; what this version does not know is dropped."""
        figures, _, sealed = stored.partition(b"\n")
        found = orjson.loads(figures)
        known = {name: found[name] for name in cls.__dataclass_fields__ if name in found}
        return cls(**known | {"sealed": sealed})

    @property
    def sealed_under(self) -> int:
        """The version of the data key that opening it needs."""
        return sealed_under(self.sealed)

    def opened(self, ring: Ring) -> dict[str, Any]:
        """`prompt`, `sampling` and `tokens`. Raises `kit.envelope.Unreadable`."""
        found: dict[str, Any] = orjson.loads(ring.unseal(self.sealed, self._place))
        return found

    def work(self, asked: dict[str, Any], *, shadow: str, adapters: Container[str]) -> Work:
        """As an engine takes it: behind every request, and in nobody's share or cache."""
        return Work(
            id=f"shadow/{self.id}/{self.tries}",
            tenant=f"shadow/{self.organization}",
            prompt=tuple(asked["prompt"]),
            sampling=Sampling.load(asked["sampling"]),
            priority=PRIORITIES,
            adapter=shadow if shadow in adapters else "",
        )

    def original(self, asked: dict[str, Any]) -> Made:
        """How it was answered."""
        return Made(asked["tokens"], self.first_ms, self.total_ms)

    def pair(self, shadow: str, version: str) -> Pair:
        """Who is compared with whom."""
        return Pair(self.model, self.model_version, shadow, version)

    @property
    def _place(self) -> Place:
        return Place(self.organization, "shadow", self.id)
