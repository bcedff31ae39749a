"""What every endpoint of an organization does first: who calls, and whether they may."""

from collections.abc import Mapping
from typing import ClassVar

from django.http import HttpRequest

from kit.edge import Endpoint
from tenants import audit
from tenants.audit import Actor
from tenants.auth import Caller, authenticate
from tenants.models import ApiKey, User
from tenants.roles import Action


class OrganizationEndpoint(Endpoint):
    """An endpoint whose `actions` say what each method needs in the table of permissions."""

    actions: ClassVar[Mapping[str, Action]]
    caller: Caller

    async def before(self, request: HttpRequest) -> None:
        """Know the caller, and that they may, or refuse."""
        self.caller = await authenticate(request.headers.get("Authorization"))
        if request.method != "OPTIONS":
            method = "GET" if request.method == "HEAD" else str(request.method)
            self.caller.allow(self.actions[method])


def actor(caller: Caller) -> Actor:
    """As the audit log names the caller; reads their name."""
    if caller.user is not None:
        return audit.person(User.objects.get(pk=caller.user))
    key = ApiKey.objects.for_org(caller.organization).get(pk=caller.key)
    return Actor(f"key:{key.pk}", key.name)
