"""Who may look at an organization's account, and who may change it."""

from django.http import HttpRequest

from tenants.api.access import ManagedEndpoint
from tenants.audit import Actor
from tenants.auth import Caller, authenticate
from tenants.roles import Action


class BillingEndpoint(ManagedEndpoint):
    """For keys with the scope `usage`; an organization sees its own documents alone."""

    async def known(self, request: HttpRequest) -> Caller:
        """Know the caller, or refuse."""
        caller = await authenticate(request.headers.get("Authorization"))
        caller.require("usage")
        return caller


class AccountEndpoint(ManagedEndpoint):
    """Everyone who may see usage reads; whoever may pay changes."""

    async def known(self, request: HttpRequest) -> Caller:
        """Know the caller, and that they may, or refuse."""
        caller = await authenticate(request.headers.get("Authorization"))
        reads = request.method == "GET"
        caller.allow(Action.READ_USAGE if reads else Action.MANAGE_BILLING)
        return caller

    @property
    def actor(self) -> Actor:
        """For the audit log."""
        return Actor(f"user:{self.caller.user}")
