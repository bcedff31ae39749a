"""Celery tasks: each translates and calls one function."""

from typing import Any, ClassVar

import structlog
from celery import shared_task
from django.db import DatabaseError
from django.utils import timezone

from inference import texts
from inference.announce import RUN
from inference.worker import Host
from tenants.models import Organization

log = structlog.get_logger()


class Serving:
    """This process's host; set when a worker starts."""

    host: ClassVar[Host | None] = None


@shared_task(name="inference.purge_texts")
def purge_texts() -> int:
    """Delete prompts and answers that are kept no more, of every organization; how many."""
    now, purged = timezone.now(), 0
    for organization in Organization.objects.filter(erased_at=None).order_by("pk"):
        try:
            purged += texts.purge(organization, now=now)
        except DatabaseError:
            log.exception("texts could not be purged", organization=organization.slug)
    return purged


@shared_task(name=RUN, ignore_result=True)
def run(model: str = "", count: int = 1, passed: int = 0, **_: Any) -> None:
    """There is work for `model`."""
    if Serving.host is not None:
        Serving.host.heed(model, count=count, passed=passed)
