"""Whose callers may have been shut out: what they have under way unread is looked at again."""

from functools import partial

import structlog
from celery import current_app
from django.db import transaction

TASK = "inference.stop_refused"
_LATER_SECONDS = 2
"""By then every process knows of the change, so that nothing is let in any more."""

log = structlog.get_logger()


def look_again(organization: int) -> None:
    """Once the change is committed: now, and when everybody knows of it."""
    transaction.on_commit(partial(_send, organization), robust=True)


def _send(organization: int) -> None:
    try:
        for countdown in (0, _LATER_SECONDS):
            current_app.send_task(
                TASK,
                kwargs={"organization": organization},
                countdown=countdown,
                ignore_result=True,
                retry=False,
            )
    except Exception as error:
        log.warning("what is under way is not looked at again", error=str(error))
