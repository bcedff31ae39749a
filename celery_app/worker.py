"""What a Celery worker is besides Celery: it loads its models first, and drains in bounded time."""

import os
from threading import Thread
from typing import Any

import structlog
from celery import signals
from django.conf import settings

from inference.catalog.offers import Offer, published
from inference.tasks import Serving
from inference.worker import Host
from kit.redis import check_state

log = structlog.get_logger()


@signals.setup_logging.connect
def keep_our_logs(**_: Any) -> None:
    """Django has configured logging already; Celery shall not."""


@signals.celeryd_after_setup.connect
def load_models(instance: Any, **_: Any) -> None:
    """Start the engines of this worker's models and listen to their queues."""
    check_state()
    offers = served()
    if not offers:
        log.warning("no published model for this worker; only maintenance runs here")
        return
    for offer in offers:
        instance.app.amqp.queues.select_add(offer.queue)
    Serving.host = Host(offers, slots=settings.ENGINE_SLOTS)
    Serving.host.start()


@signals.worker_shutting_down.connect
def drain(**_: Any) -> None:
    """On SIGTERM: Celery waits for its tasks, so let none last longer than the deadline."""
    if Serving.host is not None:
        Thread(target=Serving.host.drain, args=[settings.DRAIN_SECONDS], name="drain").start()


@signals.task_prerun.connect
def bind_log(task_id: str, task: Any, **_: Any) -> None:
    """Each log line of a task names it; an announcement's id is its request's."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(task=task.name, task_id=task_id)


def served() -> list[Offer]:
    """The published models of this worker's device, and remote ones, which need none.

    WORKER_MODELS (comma separated) narrows it.
    """
    only = {name for name in os.environ.get("WORKER_MODELS", "").split(",") if name}
    return [
        offer
        for offer in published().values()
        if (offer.device == settings.DEVICE or offer.remote is not None)
        and (not only or offer.name in only)
    ]
