"""The workers that live now, as they report themselves to Redis each second."""

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

    def running(self, model: str) -> int:
        """Requests in its engines."""
        return sum(each["running"] for each in self._of(model))

    @property
    def cache_hit_rate(self) -> float:
        """The share of prompt tokens that needed no computing, since the workers started."""
        reports = [report for worker in self.workers.values() for report in worker.values()]
        seen = sum(report["prompt_tokens"] for report in reports)
        return sum(report["cached_tokens"] for report in reports) / seen if seen else 0.0

    def _of(self, model: str) -> list[Mapping[str, Any]]:
        return [worker[model] for worker in self.workers.values() if model in worker]


async def fleet() -> Fleet:
    """Read it, in two round trips."""
    models = [each.name for each in await offers(allowed=frozenset())]
    client = async_state()
    names = _names(await client.smembers("workers"))
    async with client.pipeline(transaction=False) as pipe:
        _ask(pipe, names, models)
        found = _fleet(names, models, await pipe.execute())
    if gone := names - found.workers.keys():
        await client.srem("workers", *gone)
    return found


def fleet_now() -> Fleet:
    """`fleet` for threads."""
    models = list(published())
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
