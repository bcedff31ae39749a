"""What every endpoint of an organization does first: who calls, whether they may, and whether that
is not too much; and last: say where they stand."""

from collections.abc import Mapping
from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponseBase

from kit.edge import Endpoint
from tenants import audit, upkeep
from tenants.audit import Actor
from tenants.auth import Caller, authenticate
from tenants.limits import Standing
from tenants.models import ApiKey, User
from tenants.roles import Action


class ManagedEndpoint(Endpoint):
    """An endpoint of an organization; one that runs no model is counted and bounded as such.

    Subclasses say in `known` who calls.
    """

    runs_models: ClassVar[bool] = False
    caller: Caller
    _standing: Standing | None = None

    async def known(self, request: HttpRequest) -> Caller:
        """Who calls and may; or refuse."""
        raise NotImplementedError

    async def before(self, request: HttpRequest) -> None:
        """Know the caller, and count what they ask."""
        self.caller = await self.known(request)
        if not self.runs_models:
            self._standing = await upkeep.enter(self.caller.organization, _id(request))

    async def dispatch(  # type: ignore[override]
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        """Answer, and say what is left."""
        try:
            response = await super().dispatch(request, *args, **kwargs)
        finally:
            if self._standing is not None:
                await upkeep.leave(self.caller.organization, _id(request))
        for name, value in self._standing.headers().items() if self._standing else ():
            response.headers.setdefault(name, value)
        return response


class OrganizationEndpoint(ManagedEndpoint):
    """An endpoint whose `actions` say what each method needs in the table of permissions."""

    actions: ClassVar[Mapping[str, Action]]

    async def known(self, request: HttpRequest) -> Caller:
        """Know the caller, and that they may, or refuse."""
        caller = await authenticate(request.headers.get("Authorization"))
        if request.method != "OPTIONS":
            method = "GET" if request.method == "HEAD" else str(request.method)
            caller.allow(self.actions[method])
        return caller


def actor(caller: Caller) -> Actor:
    """As the audit log names the caller; reads their name."""
    if caller.user is not None:
        return audit.person(User.objects.get(pk=caller.user))
    key = ApiKey.objects.for_org(caller.organization).get(pk=caller.key)
    return Actor(f"key:{key.pk}", key.name)


def _id(request: HttpRequest) -> Any:
    return request.id  # type: ignore[attr-defined]
