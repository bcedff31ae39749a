"""Celery tasks: each translates and calls one function."""

from typing import Any, ClassVar

from celery import shared_task

from inference.announce import RUN
from inference.worker import Host


class Serving:
    """This process's host; set when a worker starts."""

    host: ClassVar[Host | None] = None


@shared_task(name=RUN, ignore_result=True)
def run(model: str = "", **_: Any) -> None:
    """There is work for `model`."""
    if Serving.host is not None:
        Serving.host.serve(model)
