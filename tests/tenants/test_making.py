"""Two never make one schema."""

from typing import Any

import pytest
from django.utils import timezone

from tenants import schemas
from tenants.models import Organization


def test_a_schema_that_is_being_made_is_nobody_elses_to_make(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfinished: list[Any] = []

    def look(organization: Organization, **_: Any) -> None:
        unfinished.append(schemas.unfinished(now=timezone.now()))

    monkeypatch.setattr(Organization, "create_schema", look)
    made = Organization.objects.create(slug="new", name="New")
    assert unfinished == [[]]
    assert made.making_until is None
    assert made.ready_at is not None
