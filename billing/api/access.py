"""What these endpoints share: who may look, and reading the database beside the event loop."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from django.db import close_old_connections, connection
from django.http import HttpRequest

from kit.edge import Endpoint
from tenants.auth import Caller, authenticate

T = TypeVar("T")


class BillingEndpoint(Endpoint):
    """For keys with the scope `usage`; an organization sees its own documents alone."""

    caller: Caller

    async def before(self, request: HttpRequest) -> None:
        """Know the caller, or refuse."""
        self.caller = await authenticate(request.headers.get("Authorization"))
        self.caller.require("usage")


async def read(look: Callable[[], T]) -> T:
    """What `look` finds, in a thread that gives its connection back."""

    def work() -> T:
        try:
            return look()
        finally:
            if not connection.in_atomic_block:
                close_old_connections()

    return await asyncio.to_thread(work)
