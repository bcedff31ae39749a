"""A worker's thread serves one organization after another; none leaves its schema to the next."""

from io import StringIO
from typing import Any

import pytest
import structlog
from django.db import connection

from celery_app.app import app
from celery_app.worker import begin_outside, end_outside
from tenants.models import Organization


def test_a_task_begins_and_ends_in_nobodys_schema(acme: Organization, log_lines: StringIO) -> None:
    here: Any = connection
    seen: list[str] = []

    @app.task(name="tests.wander")
    def wander() -> None:
        seen.append(here.schema_name)
        here.set_schema(acme.schema_name)

    here.set_schema("org_globex")
    wander.apply().get()
    assert seen == ["public"]
    assert here.schema_name == "public"
    assert "a task ended in a schema" in log_lines.getvalue()
    assert "org_acme" in log_lines.getvalue()
    app.tasks.unregister("tests.wander")
    structlog.contextvars.clear_contextvars()


@pytest.mark.parametrize("hook", [begin_outside, end_outside])
def test_the_hooks_are_connected(hook: Any) -> None:
    from celery import signals

    told = (signals.task_prerun, signals.task_postrun)
    assert any(hook in {ref() for _, ref in each.receivers} for each in told)
