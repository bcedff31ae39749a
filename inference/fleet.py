"""The workers that live now, as they report themselves to Redis each second."""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from inference.catalog.offers import offers, published
from kit.redis import async_state, state

Reports = Mapping[str, Mapping[str, Any]]
"""What one worker says of each of its models."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Workers by name, and waiting requests by model."""

    workers: Mapping[str, Reports]
    waiting: Mapping[str, int]

    def serving(self, model: str) -> int:
        """Workers whose engine of this model is well."""
        return sum(1 for each in self._of(model) if each["well"])

    def healthy(self, model: str) -> int:
        """Workers that would answer for this model: well, and not failing one after the other."""
        return sum(1 for each in self._of(model) if each["well"] and not each.get("failing"))

    def state(self, model: str) -> str:
        """serving, failing (its answers fail), or down (no worker has it)."""
        if self.healthy(model):
            return "serving"
        return "failing" if self.serving(model) else "down"

    def running(self, model: str) -> int:
        """Requests in its engines."""
        return sum(each["running"] for each in self._of(model))

    def slots(self, model: str) -> int:
        """How many requests its engines run at once."""
        return sum(each.get("slots", 0) for each in self._of(model) if each["well"])

    def seconds(self, model: str) -> float:
        """How long a request runs, as its workers found lately; 0 where none has."""
        found = [each["seconds"] for each in self._of(model) if each.get("seconds")]
        return sum(found) / len(found) if found else 0.0

    @property
    def cache_hit_rate(self) -> float:
        """The share of prompt tokens that needed no computing, since the workers started."""
        seen = sum(report["prompt_tokens"] for report in self._reports)
        return sum(report["cached_tokens"] for report in self._reports) / seen if seen else 0.0

    @property
    def answer_hit_rate(self) -> float:
        """The share of answers that the cache of answers had, of those looked for in it."""
        return _share(self._reports, "answers_found")

    @property
    def semantic_hit_rate(self) -> float:
        """The share of those that were found in other words."""
        return _share(self._reports, "answers_found_alike")

    @property
    def _reports(self) -> list[Mapping[str, Any]]:
        return [report for worker in self.workers.values() for report in worker.values()]

    def _of(self, model: str) -> list[Mapping[str, Any]]:
        return [worker[model] for worker in self.workers.values() if model in worker]


def _share(reports: Sequence[Mapping[str, Any]], found: str) -> float:
    looked = sum(report.get("answers_looked_for", 0) for report in reports)
    return sum(report.get(found, 0) for report in reports) / looked if looked else 0.0


async def fleet() -> Fleet:
    """Read it, in two round trips."""
    models = [each.name for each in await offers(caller=None)]
    client = async_state()
    names = _names(await client.smembers("workers"))
    async with client.pipeline(transaction=False) as pipe:
        _ask(pipe, names, models)
        found = _fleet(names, models, await pipe.execute())
    if gone := names - found.workers.keys():
        await client.srem("workers", *gone)
    return found


class Pulse:
    """The fleet as of a second ago, for who asks at every request.

    One caller reads it anew while the others take what is there, unless that is too old.
    """

    _FRESH, _USABLE = 1.0, 3.0

    def __init__(self) -> None:
        self._fleet: Fleet | None = None
        self._read_at = float("-inf")
        self._reading = False

    async def now(self) -> Fleet:
        """Raises what Redis raises where nothing usable is there."""
        age = time.monotonic() - self._read_at
        if self._fleet is None or age > (self._USABLE if self._reading else self._FRESH):
            self._reading = True
            try:
                self._fleet = await fleet()
                self._read_at = time.monotonic()
            finally:
                self._reading = False
        return self._fleet

    def forget(self) -> None:
        """Read it anew at the next request."""
        self._fleet = None


pulse = Pulse()


def fleet_now(models: Iterable[str] | None = None) -> Fleet:
    """`fleet` for threads; of these models, or of every published one."""
    models = list(published() if models is None else models)
    names = _names(state().smembers("workers"))
    with state().pipeline(transaction=False) as pipe:
        _ask(pipe, names, models)
        return _fleet(names, models, pipe.execute())


def _names(members: Any) -> set[str]:
    return {name.decode() for name in members}


def _ask(pipe: Any, names: Iterable[str], models: Iterable[str]) -> None:
    for name in names:
        pipe.get(f"worker:{name}")
    for model in models:
        pipe.zcard(f"queue:{model}")


def _fleet(names: Collection[str], models: Iterable[str], replies: Sequence[Any]) -> Fleet:
    reports, waiting = replies[: len(names)], replies[len(names) :]
    return Fleet(
        workers={
            name: orjson.loads(report)
            for name, report in zip(names, reports, strict=True)
            if report is not None
        },
        waiting=dict(zip(models, waiting, strict=True)),
    )
