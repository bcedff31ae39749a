"""The workers that live now, as they report themselves to Redis each second."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson

from inference.catalog.offers import offers
from kit.redis import async_state

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
    names = [name.decode() for name in cast("set[bytes]", await client.smembers("workers"))]
    async with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.get(f"worker:{name}")
        for model in models:
            pipe.zcard(f"queue:{model}")
        replies = await pipe.execute()
    reports, waiting = replies[: len(names)], replies[len(names) :]
    gone = [name for name, report in zip(names, reports, strict=True) if report is None]
    if gone:
        await client.srem("workers", *gone)
    return Fleet(
        workers={
            name: orjson.loads(report)
            for name, report in zip(names, reports, strict=True)
            if report is not None
        },
        waiting=dict(zip(models, waiting, strict=True)),
    )
