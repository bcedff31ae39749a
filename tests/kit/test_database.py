"""The database backend: connections come from a pool and go back to it, whoever had them."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.db.models import QuerySet
from django_tenants.utils import schema_context

from kit.paging import paged
from tenants.models import Organization
from tests import factories


def open_cursors() -> int:
    """Of the server's, on this thread's connection, besides the one that asks."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_cursors WHERE name LIKE '_django_curs%%'", [])
        return int(cursor.fetchone()[0])


@pytest.mark.django_db(transaction=True)
def test_no_cursor_stays_behind_on_a_connection_that_was_given_back(acme: Organization) -> None:
    factories.organization("globex")
    found = Organization.objects.order_by("pk").iterator(chunk_size=1)
    assert next(found) == acme
    assert open_cursors() == 0
    with transaction.atomic():
        within = Organization.objects.order_by("pk").iterator(chunk_size=1)
        assert next(within) == acme
        assert open_cursors() == 1, "what is large is not read at once where its end is sure"
    assert next(found).slug == "globex"


@pytest.mark.django_db
def test_rows_come_page_by_page_and_those_that_are_added_behind_too(acme: Organization) -> None:
    others = [factories.organization("globex")]
    rows: QuerySet[Organization] = Organization.objects.all()
    found = paged(rows, size=1)
    assert next(found) == acme
    others.append(Organization(slug="late", name="Late"))
    others[-1].schema_at_once = False
    others[-1].save()
    assert list(found) == others
    assert list(paged(rows, size=3)) == list(paged(rows, size=100)) == [acme, *others]


@pytest.mark.django_db(transaction=True)
def test_nothing_is_asked_where_the_schema_could_not_be_chosen(acme: Organization) -> None:
    def stopped(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        if sql.startswith("SET search_path"):
            raise OperationalError("canceling statement due to statement timeout")
        return execute(sql, *rest)

    with (
        connection.execute_wrapper(stopped),
        schema_context(acme.schema_name),
        pytest.raises(OperationalError, match="schema could not be chosen"),
    ):
        connection.cursor()  # Else it would ask in the schema of whom it served before.
