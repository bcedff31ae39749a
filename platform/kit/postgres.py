"""Connections to PostgreSQL that give up on a server which hangs.

One that died closes its connections; one that hangs (it was stopped, its disk does not answer, its
machine left the network) keeps whoever asked it waiting without end, and with them the threads they
are. No limit of the server's own helps, for it is the server that does not run. So whoever must go
on says how long it waits for an answer. What is long by nature says nothing and waits: migrations,
a month's closing.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, TypeVar

import psycopg
from psycopg.pq import ConnStatus
from psycopg.rows import TupleRow

RV = TypeVar("RV")

_patience: ContextVar[float | None] = ContextVar("patience", default=None)


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Each answer of PostgreSQL's is waited for so long in here; then the connection is given up,
    and `OperationalError` raised."""
    token = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(token)


class Connection(psycopg.Connection[TupleRow]):
    """One whose answers are waited for as long as `patience`, or else the process, says."""

    usual: ClassVar[float | None] = None
    """How long this process waits where nobody says."""

    def wait(
        self, gen: Generator[Any, Any, RV], interval: float = 0.1, timeout: float | None = None
    ) -> RV:
        """See psycopg."""
        if timeout is None:
            timeout = _patience.get() or self.usual
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.OperationalError as error:
            # Half of an answer may be under way still: nobody can use this connection any more.
            # (What the server itself refuses, a deadlock or a statement's time, it has said whole.)
            if error.sqlstate is None and self.pgconn.status == ConnStatus.OK:
                self.pgconn.finish()
            raise
