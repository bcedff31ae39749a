"""Having a task run now, from where people wait; should it not arrive, a poller finds the row."""

import structlog
from celery import current_app

log = structlog.get_logger()


def soon(task: str, **arguments: str) -> None:
    """Announce a task by its name; a broker that does not answer is no harm."""
    try:
        current_app.send_task(task, kwargs=arguments, ignore_result=True, retry=False)
    except Exception as error:
        log.warning("a task could not be announced; the poller does it", error=str(error))
