"""The admin's first page."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from redis.exceptions import RedisError

from analytics.overview import overview
from inference.catalog.models import Model
from inference.fleet import Fleet, fleet_now


@dataclass(frozen=True, slots=True)
class ModelHealth:
    """A model of the catalog, and how its workers are."""

    model: Model
    state: str
    serving: int
    running: int
    waiting: int


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Live figures: a few statements and two round trips to Redis."""
    fleet = _fleet()
    return {
        **context,
        "title": "Overview",
        "overview": overview(timezone.now()),
        "fleet": fleet,
        "cached": f"{fleet.cache_hit_rate:.0%}" if fleet else "",
        "models": list(_models(fleet)),
    }


def _fleet() -> Fleet | None:
    try:
        return fleet_now()
    except RedisError:
        return None


def _models(fleet: Fleet | None) -> Iterator[ModelHealth]:
    now = fleet or Fleet(workers={}, waiting={})
    for model in Model.objects.order_by("name"):
        serving = now.healthy(model.name)
        state = now.state(model.name) if model.published else "draft"
        running, waiting = now.running(model.name), now.waiting.get(model.name, 0)
        yield ModelHealth(model, state, serving, running, waiting)
