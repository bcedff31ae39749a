"""Rows of a long table, a page at a time: each page is a query of its own.

So between two rows nothing is held: no cursor on a connection, no transaction. Who reads may take
another thread for each page, and as long as they like.
"""

from collections.abc import Iterator
from typing import Any, TypeVar

from django.db.models import Model, QuerySet

Row = TypeVar("Row", bound=Model)


def paged(rows: QuerySet[Row], *, by: str = "pk", size: int) -> Iterator[Row]:
    """All rows, ascending by a field in which no two are alike; `size` are read at once. What is
    added behind the last that was read is among them."""
    rows, after = rows.order_by(by), dict[str, Any]()
    while page := list(rows.filter(**after)[:size]):
        yield from page
        if len(page) < size:
            return
        after = {f"{by}__gt": getattr(page[-1], by)}
