"""What every test may use. Servers are started by `tests.servers`, once a run."""

import logging
from collections.abc import Iterator
from io import StringIO
from time import monotonic, sleep

import pytest
from django.conf import settings
from django.db import connection, connections
from django.test import TransactionTestCase
from django_tenants.utils import get_tenant_model, schema_context
from pytest_django import DjangoDbBlocker
from redis import Redis
from structlog.stdlib import ProcessorFormatter

from kit.redis import state
from tenants import datakeys
from tenants.models import Organization, User
from tests import factories
from tests.emptying import empty

SCHEMAS = ("org_acme", "org_globex")
"""Tenant schemas made once a run: creating one takes all of its migrations."""


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """The test database: the public schema migrated, and the schemas of acme and globex.

    Their organizations' rows are each test's own: saving one finds its schema there already.
    """
    with django_db_blocker.unblock():
        for name in SCHEMAS:
            get_tenant_model()(schema_name=name).create_schema(check_if_exists=True, verbosity=0)
    yield
    with django_db_blocker.unblock():
        _have_all_returned()


def _have_all_returned() -> None:
    """The pool has its connections again before it is closed with the database.

    Else one that is on its way back stays open, as long as a test's traceback holds it.
    """
    connections.close_all()
    pool, deadline = getattr(connection, "pool", None), monotonic() + 10
    while pool and monotonic() < deadline:
        found = pool.get_stats()
        if found.get("pool_available", 0) == found.get("pool_size", 0):
            return
        sleep(0.01)


@pytest.fixture(autouse=True)
def _public_schema() -> Iterator[None]:
    """Each test begins and ends on the public schema, whichever it visited."""
    with schema_context(settings.PUBLIC_SCHEMA_NAME):
        yield


@pytest.fixture(autouse=True)
def _fresh_data_keys() -> Iterator[None]:
    """A process holds data keys for minutes; each test has its own."""
    yield
    datakeys.forget()


@pytest.fixture(autouse=True, scope="session")
def _emptied_quickly() -> Iterator[None]:
    """After a test with real transactions, of the tenants' schemas too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            TransactionTestCase,
            "_fixture_teardown",
            lambda _: empty(settings.PUBLIC_SCHEMA_NAME, *SCHEMAS),
        )
        yield


@pytest.fixture
def redis() -> Iterator[Redis]:
    """The state Redis, empty."""
    state().flushdb()
    yield state()
    state().flushdb()


@pytest.fixture
def acme(db: None) -> Organization:
    """Alice's organization."""
    return factories.organization("acme")


@pytest.fixture
def globex(db: None) -> Organization:
    """Bob's organization."""
    return factories.organization("globex")


@pytest.fixture
def alice(acme: Organization) -> User:
    """Owns acme."""
    alice = factories.user("alice")
    factories.member(alice, acme)
    return alice


@pytest.fixture
def bob(globex: Organization) -> User:
    """Owns globex."""
    bob = factories.user("bob")
    factories.member(bob, globex)
    return bob


@pytest.fixture
def charlie(db: None) -> User:
    """Belongs to neither."""
    return factories.user("charlie")


@pytest.fixture
def log_lines() -> Iterator[StringIO]:
    """What is logged, at every level, as it would be written."""
    root = logging.getLogger()
    [out] = [each for each in root.handlers if isinstance(each.formatter, ProcessorFormatter)]
    lines, level = StringIO(), root.level
    before = out.setStream(lines)  # type: ignore[attr-defined]
    root.setLevel(logging.DEBUG)
    yield lines
    root.setLevel(level)
    out.setStream(before)  # type: ignore[attr-defined]
