"""What a Celery worker is besides Celery: it loads its models first, and drains in bounded time."""

import os
from threading import Thread
from typing import Any

import structlog
from celery import signals
from django.conf import settings
from django.db import connection

from inference.catalog.offers import Offer, run_here
from inference.tasks import Serving
from inference.worker import Host
from kit import pauses
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
    Serving.host.attend()
    pauses.keep_rare()  # they would stop all answers for a while


@signals.worker_shutting_down.connect
def drain(**_: Any) -> None:
    """On SIGTERM: running requests end, or are handed over at the deadline."""
    if _drain.ident is None:
        _drain.start()


@signals.worker_shutdown.connect
def drained(**_: Any) -> None:
    """Tasks only begin requests, so Celery is soon through; the requests are waited for."""
    if _drain.is_alive():
        _drain.join()


def _drain_host() -> None:
    if Serving.host is not None:
        Serving.host.drain(settings.DRAIN_SECONDS)


_drain = Thread(target=_drain_host, name="drain")


@signals.task_prerun.connect
def bind_log(task_id: str, task: Any, **_: Any) -> None:
    """Each log line of a task names it; an announcement's id is its request's."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(task=task.name, task_id=task_id)


@signals.task_prerun.connect
def begin_outside(**_: Any) -> None:
    """A task begins in nobody's schema, whatever its thread did before."""
    _tenants().set_schema_to_public()


@signals.task_postrun.connect
def end_outside(task: Any, **_: Any) -> None:
    """A task that ends in an organization's schema is a bug, and is told."""
    here = _tenants()
    if here.schema_name != settings.PUBLIC_SCHEMA_NAME:
        log.error("a task ended in a schema", task=task.name, schema=here.schema_name)
        here.set_schema_to_public()


def _tenants() -> Any:
    """The thread's connection, as django-tenants makes it."""
    return connection


def served() -> list[Offer]:
    """The models of this worker's device that are published, or shadows; remote ones need none.

    WORKER_MODELS (comma separated) narrows it. What is an organization's alone runs only where it
    is named there.
    """
    only = {name for name in os.environ.get("WORKER_MODELS", "").split(",") if name}
    return [
        offer
        for offer in run_here().values()
        if (offer.device == settings.DEVICE or offer.remote is not None)
        and (offer.name in only if only or offer.dedicated_to else True)
    ]
