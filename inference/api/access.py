"""What every inference endpoint does first and last: who calls, and what the headers say."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime

from django.http import HttpRequest

from inference.admission import Wish
from inference.generation import Generation, generation
from kit.edge import Endpoint
from tenants.auth import Caller, authenticate

INFERENCE = "inference"
"""The scope these endpoints need."""


class InferenceEndpoint(Endpoint):
    """An endpoint for keys that may run models."""

    caller: Caller

    async def before(self, request: HttpRequest) -> None:
        """Know the caller, or refuse."""
        self.caller = await authenticate(request.headers.get("Authorization"))
        self.caller.require(INFERENCE)

    def generation(
        self, request: HttpRequest, wish: Wish
    ) -> AbstractAsyncContextManager[Generation]:
        """Admit the wish under the request's own id."""
        return generation(
            caller=self.caller,
            wish=wish,
            request=request.id,  # type: ignore[attr-defined]
            now=datetime.now(UTC),
        )


def headers(run: Generation) -> Mapping[str, str]:
    """Where the caller stands with the limits."""
    return run.standing.headers()
