"""Blocking work beside an event loop."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from django.db import close_old_connections, connection

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Work on the database, in a thread that gives its connection back."""

    def run() -> T:
        try:
            return work(*args, **kwargs)
        finally:
            if not connection.in_atomic_block:
                close_old_connections()

    return await asyncio.to_thread(run)
