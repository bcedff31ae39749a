"""django-tenants' backend, for connections that a pool lends to whoever asks next.

A connection comes with the schema of whom it served before, and goes while who had it may still
hold something that was made on it.
"""

from typing import Any

from django.db import OperationalError
from django_tenants.postgresql_backend import base
from psycopg.pq import TransactionStatus


class DatabaseWrapper(base.DatabaseWrapper):  # type: ignore[misc]
    """Django finds it by this name."""

    def chunked_cursor(self) -> Any:
        """What `iterator()` reads by: a cursor of the server's inside a transaction alone, whose
        end is its end. Outside of one it would be read on by a connection that was given back and
        serves another thread; so all is read at once. What is large is read in pages
        (`kit.paging`)."""
        return super().chunked_cursor() if self.in_atomic_block else self.cursor()

    def _handle_search_path(self, cursor: Any = None) -> None:
        """Or nothing is asked: django-tenants goes on where the path could not be set, with the
        schema of whom the connection served before."""
        if self._setting_search_path:
            return
        super()._handle_search_path(cursor)
        if self.search_path_set_schemas is None and not self._has_failed():
            raise OperationalError("The schema could not be chosen.")

    def _has_failed(self) -> bool:
        """Whether the transaction takes nothing but its end: no other statement succeeds."""
        status = self.connection.info.transaction_status
        return bool(status == TransactionStatus.INERROR)
