"""Answers the bells of the models that a worker has loaded."""

from collections.abc import Callable
from threading import Event, Thread
from time import monotonic

import redis
import structlog
from redis.exceptions import RedisError

from inference import bell
from inference.worker.stations import Stations
from kit import redis as kit_redis

_WAIT_SECONDS = 1.0
"""After so long it looks again which models are loaded, and says that it still listens."""

log = structlog.get_logger()


class Attendant:
    """A thread that waits at the bells and calls `answer` with the model whose bell rang."""

    def __init__(self, worker: str, stations: Stations, answer: Callable[[str], object]) -> None:
        self._worker = worker
        self._stations = stations
        self._answer = answer
        self._stopped = Event()
        self._said: dict[str, float] = {}
        self._thread = Thread(target=self._run, name="attendant", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more; what rings meanwhile rings for others."""
        self._stopped.set()
        try:
            bell.leave(self._worker, self._models())
        except RedisError as error:
            log.warning("it is taken to listen for some seconds more", error=str(error))

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with kit_redis.listener() as client:
                    while not self._stopped.is_set():
                        self._attend(client)
            except RedisError as error:
                log.warning("the bells cannot be heard; announcements can", error=str(error))
                self._stopped.wait(_WAIT_SECONDS)

    def _attend(self, client: redis.Redis) -> None:
        models = self._models()
        if not models:
            self._stopped.wait(_WAIT_SECONDS)
            return
        self._say(models)
        rung = bell.wait(client, models, seconds=_WAIT_SECONDS)
        if rung is None:
            return
        if self._stopped.is_set():
            bell.ring(rung)
            return
        try:
            self._answer(rung)
        except RedisError:
            raise
        except Exception:
            log.exception("a bell could not be answered; an announcement will be", model=rung)

    def _say(self, models: list[str]) -> None:
        now = monotonic()
        due = [each for each in models if now - self._said.get(each, -1e9) > _WAIT_SECONDS / 2]
        bell.listen(self._worker, due)
        self._said |= dict.fromkeys(due, now)

    def _models(self) -> list[str]:
        return [model for model in self._stations.offers if self._stations.running(model)]
