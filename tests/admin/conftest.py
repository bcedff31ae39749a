"""An operator, and the history of two organizations."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from redis import Redis

from inference.history import Row, write
from kit.ids import request_id
from tenants.models import Organization
from tests import factories

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def row(at: datetime = NOW, **fields: Any) -> Row:
    """A finished request of a minute ago."""
    plain = Row(
        id=request_id(at),
        state="finished",
        reason="stop",
        error="",
        endpoint="infer",
        model="small",
        model_version="v1",
        key="key000000000",
        label="",
        region="local",
        prompt_tokens=1234,
        cached_tokens=0,
        completion_tokens=11,
        amount=12_300,
        currency="EUR",
        attempts=1,
        created_at=at,
        started_at=at + timedelta(milliseconds=5),
        first_token_at=at + timedelta(milliseconds=25),
        finished_at=at + timedelta(milliseconds=1525),
        project="",
        cache="",
    )
    return replace(plain, **fields)


@pytest.fixture
def operator(redis: Redis, db: None, client: Client) -> Client:
    """Logged in."""
    client.force_login(factories.user("operator", is_staff=True, is_superuser=True))
    return client


@pytest.fixture
def job(acme: Organization, globex: Organization) -> Callable[..., Row]:
    """Writes a row to an organization's history."""

    def written(of: Organization, **fields: Any) -> Row:
        made = row(**fields)
        write([(of.schema_name, made)])
        return made

    return written
