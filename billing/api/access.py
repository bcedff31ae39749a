"""Who may look at an organization's account, and who may change it."""

from django.http import HttpRequest

from kit.edge import Endpoint
from tenants.audit import Actor
from tenants.auth import Caller, authenticate
from tenants.roles import Action


class BillingEndpoint(Endpoint):
    """For keys with the scope `usage`; an organization sees its own documents alone."""

    caller: Caller

    async def before(self, request: HttpRequest) -> None:
        """Know the caller, or refuse."""
        self.caller = await authenticate(request.headers.get("Authorization"))
        self.caller.require("usage")


class AccountEndpoint(Endpoint):
    """Everyone who may see usage reads; whoever may pay changes."""

    caller: Caller

    async def before(self, request: HttpRequest) -> None:
        """Know the caller, and that they may, or refuse."""
        self.caller = await authenticate(request.headers.get("Authorization"))
        reads = request.method == "GET"
        self.caller.allow(Action.READ_USAGE if reads else Action.MANAGE_BILLING)

    @property
    def actor(self) -> Actor:
        """For the audit log."""
        return Actor(f"user:{self.caller.user}")
