"""An organization's schema: made in the background.

Making is claimed by a lease on the organization's row, so that of two tasks one works, and goes on
where a task that died stopped: migrations that are applied are not applied again. How far it is,
is counted in the schema itself.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from celery import current_app
from django.db import connection, transaction
from django.db.migrations.loader import MigrationLoader
from django.db.models import Q
from django_tenants.utils import schema_exists

from tenants import blueprint
from tenants.models import Organization
from tenants.records import changing

log = structlog.get_logger()

LEASE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `steps`; `working` while a task has it. `ready` when all of it is there."""

    ready: bool
    working: bool
    done: int
    steps: int

    @property
    def percent(self) -> int:
        """For a bar."""
        return 100 if self.ready else min(99, 100 * self.done // max(1, self.steps))


def ask(organization: int) -> None:
    """Have a worker make it, once the caller's transaction is through.

    Should the broker not answer, beat's own task finds it.
    """

    def send() -> None:
        try:
            current_app.send_task("tenants.make_schema", args=[organization], retry=False)
        except Exception as error:
            log.warning("a schema was not asked for; beat does it again", error=str(error))

    transaction.on_commit(send)


def make(organization: int, *, now: datetime) -> bool:
    """Make the schema, or what is missing of it; whether this call did.

    False where it is ready, erased, or in another's hands: the lease tells the others not to try,
    a lock of the schema itself holds should the making outlast it.
    """
    rows = Organization.objects.filter(pk=organization, ready_at=None, erased_at=None)
    free = rows.filter(Q(making_until=None) | Q(making_until__lte=now))
    if not free.update(making_until=now + LEASE):
        return False
    row = Organization.objects.get(pk=organization)
    if not blueprint.complete(row.schema_name):
        return False
    with transaction.atomic(), changing(Organization.kind, organization):
        return bool(rows.update(ready_at=now, making_until=None))


def unfinished(*, now: datetime) -> list[int]:
    """The organizations whose schema nobody works on and that is not there."""
    rows = Organization.objects.filter(ready_at=None, erased_at=None)
    free = rows.filter(Q(making_until=None) | Q(making_until__lte=now))
    return list(free.order_by("created_at").values_list("pk", flat=True))


def progress(organization: Organization, *, now: datetime) -> Progress:
    """How far the making is."""
    if organization.ready_at is not None:
        return Progress(ready=True, working=False, done=1, steps=1)
    steps = len(MigrationLoader(None, ignore_no_migrations=True).disk_migrations or ())
    until = organization.making_until
    working = until is not None and until > now
    return Progress(False, working, _applied(organization.schema_name), steps)


def _applied(schema: str) -> int:
    """The migrations that the schema says it has."""
    if not schema_exists(schema):
        return 0
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT to_regclass(format('%%I.django_migrations', %s::text)) IS NOT NULL", [schema]
        )
        [(is_there,)] = cursor.fetchall()
        if not is_there:
            return 0
        name = connection.ops.quote_name(schema)
        cursor.execute(f"SELECT count(*) FROM {name}.django_migrations")  # noqa: S608
        [(count,)] = cursor.fetchall()
    return int(count)
