"""/api/v1/invitations: people are invited into an organization. For people alone."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from drf_spectacular.utils import extend_schema
from pydantic import BaseModel, ConfigDict, Field

from kit.edge import Endpoint, Json, body
from kit.threads import in_thread
from tenants import invitations
from tenants.accounts import letters
from tenants.api.access import OrganizationEndpoint, actor
from tenants.auth import authenticate_person
from tenants.invitations import Send
from tenants.models import Invitation, Role, User
from tenants.roles import Action

_TAGS = ["Organization"]


class NewInvitation(BaseModel):
    """Whom, and as what."""

    model_config = ConfigDict(extra="forbid")

    email: str = Field(min_length=3, max_length=254)
    role: Literal["owner", "admin", "developer", "billing", "viewer"] = "developer"


class Nothing(BaseModel):
    """No fields."""

    model_config = ConfigDict(extra="forbid")


class Token(BaseModel):
    """The last part of the link in the letter."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(min_length=1, max_length=100)


class AnInvitation(BaseModel):
    """An open invitation; its token is in the letter alone."""

    id: int
    email: str
    role: str
    state: Literal["open", "expired"]
    invited_by: str | None = Field(description="The e-mail address of a person.")
    sent_at: datetime
    expires_at: datetime


class InvitationList(BaseModel):
    """The open ones, newest first; those that expired too."""

    data: list[AnInvitation]


class Accepted(BaseModel):
    """Where one belongs now."""

    slug: str
    role: str


class Invitations(OrganizationEndpoint):
    """Those that are open."""

    actions = {"GET": Action.INVITE, "POST": Action.INVITE}  # noqa: RUF012

    @extend_schema(
        operation_id="invitations_list",
        tags=_TAGS,
        summary="List open invitations",
        responses=InvitationList,
    )
    async def get(self, request: HttpRequest) -> Json:
        """Newest first."""
        return Json(await in_thread(self._all))

    @extend_schema(
        operation_id="invitations_create",
        tags=_TAGS,
        summary="Invite somebody",
        description="A letter with a link goes to the address. Owners are invited by owners alone.",
        request=NewInvitation,
        responses={201: AnInvitation},
    )
    async def post(self, request: HttpRequest) -> Json:
        """By letter."""
        form = await body(request, NewInvitation)
        send = letters.invitation(_link(request))
        return Json(await in_thread(self._offer, form.email, Role(form.role), send), status=201)

    def _all(self) -> Mapping[str, Any]:
        now = datetime.now(UTC)
        rows = invitations.listed(self.caller.organization)
        return {"data": [_shown(each, now) for each in rows]}

    def _offer(self, email: str, role: Role, send: Send) -> Mapping[str, Any]:
        now, by = datetime.now(UTC), actor(self.caller)
        row = invitations.offer(self.caller, by, email=email, role=role, send=send, now=now)
        return _shown(row, now)


class OneInvitation(OrganizationEndpoint):
    """One of them."""

    actions = {"DELETE": Action.INVITE}  # noqa: RUF012

    @extend_schema(
        operation_id="invitations_withdraw",
        tags=_TAGS,
        summary="Withdraw an invitation",
        responses={204: None},
    )
    async def delete(self, request: HttpRequest, invitation: int) -> HttpResponse:
        """Its link is good no more."""
        await in_thread(self._withdraw, invitation)
        return HttpResponse(status=204)

    def _withdraw(self, invitation: int) -> None:
        now, by = datetime.now(UTC), actor(self.caller)
        invitations.withdraw(self.caller, by, invitation=invitation, now=now)


class Resending(OrganizationEndpoint):
    """One of them, once more."""

    actions = {"POST": Action.INVITE}  # noqa: RUF012

    @extend_schema(
        operation_id="invitations_resend",
        tags=_TAGS,
        summary="Send an invitation again",
        description="With a new link and a new time; the old link is good no more.",
        request=Nothing,
        responses=AnInvitation,
    )
    async def post(self, request: HttpRequest, invitation: int) -> Json:
        """Another letter."""
        await body(request, Nothing)
        return Json(await in_thread(self._resend, invitation, letters.invitation(_link(request))))

    def _resend(self, invitation: int, send: Send) -> Mapping[str, Any]:
        now, by = datetime.now(UTC), actor(self.caller)
        row = invitations.resend(self.caller, by, invitation=invitation, send=send, now=now)
        return _shown(row, now)


class Acceptance(Endpoint):
    """By the person who is invited; needs no organization."""

    @extend_schema(
        operation_id="invitations_accept",
        tags=["Log-in"],
        summary="Accept an invitation",
        description="The invited address must be yours, and confirmed.",
        request=Token,
        responses=Accepted,
    )
    async def post(self, request: HttpRequest) -> Json:
        """One belongs to the organization from now on."""
        user = await authenticate_person(request.headers.get("Authorization"))
        form = await body(request, Token)
        return Json(await in_thread(_accept, user, form.token))


def _accept(user: int, token: str) -> Mapping[str, Any]:
    person = User.objects.get(pk=user)
    member = invitations.accept(token, user=person, now=datetime.now(UTC))
    return {"slug": member.organization.slug, "role": member.role}


def _link(request: HttpRequest) -> Callable[[str], str]:
    return lambda token: request.build_absolute_uri(reverse("invitation", args=[token]))


def _shown(row: Invitation, now: datetime) -> Mapping[str, Any]:
    return {
        "id": row.pk,
        "email": row.email,
        "role": row.role,
        "state": "expired" if row.has_expired(now) else "open",
        "invited_by": row.invited_by.email if row.invited_by else None,
        "sent_at": row.sent_at,
        "expires_at": row.expires_at,
    }
