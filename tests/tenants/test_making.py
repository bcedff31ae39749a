"""Two never make one schema."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from tenants import blueprint, schemas
from tenants.models import Organization


def test_a_schema_that_is_being_made_is_nobody_elses_to_make(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfinished: list[Any] = []

    def look(organization: Organization, **_: Any) -> bool:
        unfinished.append(schemas.unfinished(now=timezone.now()))
        return True

    monkeypatch.setattr(Organization, "create_schema", look)
    made = Organization.objects.create(slug="new", name="New")
    assert unfinished == [[]]
    assert made.making_until is None
    assert made.ready_at is not None


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("redis")
def test_a_maker_that_outlasts_its_lease_is_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    organization = Organization(slug="slow", name="Slow")
    organization.schema_at_once = False
    organization.save()
    begun, go_on, migrate = Event(), Event(), blueprint._migrate

    def slowly(schema: str) -> None:
        begun.set()
        assert go_on.wait(60)
        migrate(schema)

    def make(after: timedelta) -> bool:
        try:
            return schemas.make(organization.pk, now=timezone.now() + after)
        finally:
            connection.close()

    blueprint._statements.clear()
    monkeypatch.setattr(blueprint, "_migrate", slowly)
    with ThreadPoolExecutor(2) as pool:
        try:
            first = pool.submit(make, timedelta())
            assert begun.wait(60)
            assert not pool.submit(make, 2 * schemas.LEASE).result(60), "it is being made"
        finally:
            go_on.set()
        assert first.result(60)
    organization.refresh_from_db()
    assert organization.ready_at is not None
    assert blueprint.behind([organization.schema_name]) == []
    with connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA org_slow CASCADE")
