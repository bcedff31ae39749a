"""Celery tasks: each translates and calls one function."""

from threading import BoundedSemaphore
from typing import Any, ClassVar

import structlog
from celery import shared_task
from django.utils import timezone

from billing import metering
from inference import occupancy, responses, stopping, texts
from inference.announce import RUN
from inference.batches import batch as batches
from inference.batches import files
from inference.batching import carry
from inference.catalog import shadows
from inference.letters import shelf
from inference.worker import Host
from tenants import shutting
from tenants.models import Organization

_BATCHES = BoundedSemaphore(4)
"""So many of a worker's threads work at batches."""

log = structlog.get_logger()


class Serving:
    """This process's host; set when a worker starts."""

    host: ClassVar[Host | None] = None


@shared_task(name="inference.purge_texts")
def purge_texts() -> int:
    """Delete prompts, answers and responses that are kept no more, of every organization; how
    many."""
    now, purged = timezone.now(), 0
    for organization in Organization.objects.filter(erased_at=None).order_by("pk"):
        try:
            purged += texts.purge(organization, now=now)
            purged += responses.purge(organization, now=now)
        except Exception:
            log.exception("texts could not be purged", organization=organization.slug)
    return purged


@shared_task(name="inference.run_batches", ignore_result=True)
def run_batches(**_: Any) -> None:
    """Work at the open batches, each for a turn, until none is left to be taken up."""
    if not _BATCHES.acquire(blocking=False):
        return
    try:
        while not _is_draining() and (batch := batches.claim(now=timezone.now())) is not None:
            carry(batch, stopping=_is_draining)
    finally:
        _BATCHES.release()


@shared_task(name=shutting.TASK, ignore_result=True)
def stop_refused(organization: int = 0, **_: Any) -> int:
    """Cancel what runs for callers who were shut out; how many requests."""
    return stopping.stop_refused(organization)


@shared_task(name="inference.purge_files", ignore_result=True)
def purge_files(**_: Any) -> int:
    """Delete files that are kept no more; how many."""
    return files.purge(now=timezone.now())


@shared_task(name="inference.purge_batches", ignore_result=True)
def purge_batches(**_: Any) -> int:
    """Forget batches whose results are kept no more; how many."""
    return batches.purge(now=timezone.now())


@shared_task(name="inference.meter_storage", ignore_result=True)
def meter_storage(**_: Any) -> int:
    """Book what lay stored as the last hour ended; how many organizations' that were."""
    now = timezone.now()
    hour = metering.hour_of(now)
    return metering.book_storage(files.stored(at=hour + metering.HOUR), hour=hour, now=now)


@shared_task(name="inference.meter_devices", ignore_result=True)
def meter_devices(**_: Any) -> int:
    """Book the hours for which workers held what is dedicated; how many rows."""
    now, written = timezone.now(), 0
    for hour in occupancy.hours_over():
        written += metering.book_devices(occupancy.held(hour), hour=hour, now=now)
    return written


def _is_draining() -> bool:
    return Serving.host is not None and Serving.host.is_draining


@shared_task(name="inference.purge_dead_letters")
def purge_dead_letters() -> int:
    """Throw away old dead letters; how many."""
    return shelf.purge(now=timezone.now())


@shared_task(name="inference.purge_shadow_runs", ignore_result=True)
def purge_shadow_runs(**_: Any) -> int:
    """Forget old runs of shadows; how many."""
    return shadows.purge(now=timezone.now())


@shared_task(name=RUN, ignore_result=True)
def run(model: str = "", passed: int = 0, **_: Any) -> None:
    """There is work for `model`."""
    if Serving.host is not None:
        Serving.host.heed(model, passed=passed)
