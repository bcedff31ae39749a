"""/api/v1/members and /api/v1/ownership: the people of an organization. For people alone."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import extend_schema
from pydantic import BaseModel, ConfigDict, Field

from kit.edge import Json, body
from kit.errors import Invalid
from kit.threads import in_thread
from tenants import members
from tenants.api.access import OrganizationEndpoint, actor
from tenants.models import Membership, Role
from tenants.roles import Action

_TAGS = ["Organization"]


class Member(BaseModel):
    """A person in the organization."""

    user: int
    email: str
    role: str
    requests_per_minute: int
    tokens_per_minute: int
    concurrent_requests: int
    since: datetime


class MemberList(BaseModel):
    """Everyone, by address."""

    data: list[Member]


_Limit = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1, description="0: no limit.")]


class MemberChange(BaseModel):
    """Only the fields that are to change. Limits hold for the person and all of their keys."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["owner", "admin", "developer", "billing", "viewer"] = "viewer"
    requests_per_minute: _Limit = 0
    tokens_per_minute: _Limit = 0
    concurrent_requests: _Limit = 0


class Leaving(BaseModel):
    """The organization's slug, so that nobody leaves by mistake."""

    model_config = ConfigDict(extra="forbid")

    organization: str = Field(max_length=40)


class Transfer(BaseModel):
    """Who owns it from now on; you become an admin."""

    model_config = ConfigDict(extra="forbid")

    user: int = Field(strict=True, ge=1, le=2**62)


class Members(OrganizationEndpoint):
    """All of them."""

    actions = {"GET": Action.READ_MEMBERS}  # noqa: RUF012

    @extend_schema(
        operation_id="members_list", tags=_TAGS, summary="List the members", responses=MemberList
    )
    async def get(self, request: HttpRequest) -> Json:
        """With their roles."""
        return Json(await in_thread(self._all))

    def _all(self) -> Mapping[str, Any]:
        return {"data": [_member(each) for each in members.listed(self.caller.organization)]}


class OneMember(OrganizationEndpoint):
    """One of them."""

    actions = {"PATCH": Action.MANAGE_MEMBERS, "DELETE": Action.MANAGE_MEMBERS}  # noqa: RUF012

    @extend_schema(
        operation_id="members_change",
        tags=_TAGS,
        summary="Give a member another role, or limits",
        description="Everywhere within a second. Owners are made and unmade by owners alone.",
        request=MemberChange,
        responses=Member,
    )
    async def patch(self, request: HttpRequest, user: int) -> Json:
        """A new role, or limits."""
        form = await body(request, MemberChange)
        fields = form.model_dump(include=form.model_fields_set)
        if not fields:
            raise Invalid("Name at least one field to change.", param="body")
        return Json(await in_thread(self._change, user, fields))

    @extend_schema(
        operation_id="members_remove",
        tags=_TAGS,
        summary="Remove a member",
        description="Out within a second, their own API keys too; those of service accounts stay.",
        responses={204: None},
    )
    async def delete(self, request: HttpRequest, user: int) -> HttpResponse:
        """Out."""
        await in_thread(self._remove, user)
        return HttpResponse(status=204)

    def _change(self, user: int, fields: dict[str, Any]) -> Mapping[str, Any]:
        caller, by, now = self.caller, actor(self.caller), datetime.now(UTC)
        role = fields.pop("role", None)
        with transaction.atomic():
            if role is not None:
                member = members.give_role(caller, by, user=user, role=Role(role), now=now)
            if fields or role is None:
                member = members.limit(caller, by, user=user, limits=fields, now=now)
        return _member(member)

    def _remove(self, user: int) -> None:
        members.remove(self.caller, actor(self.caller), user=user, now=datetime.now(UTC))


class Leave(OrganizationEndpoint):
    """Oneself."""

    actions = {"POST": Action.READ_MEMBERS}  # noqa: RUF012

    @extend_schema(
        operation_id="members_leave",
        tags=_TAGS,
        summary="Leave the organization",
        request=Leaving,
        responses={204: None},
    )
    async def post(self, request: HttpRequest) -> HttpResponse:
        """Once its slug is said."""
        form = await body(request, Leaving)
        if form.organization != self.caller.slug:
            raise Invalid(
                f"organization: say {self.caller.slug!r} to leave it.", param="organization"
            )
        await in_thread(self._leave)
        return HttpResponse(status=204)

    def _leave(self) -> None:
        me = self.caller.user or 0
        members.leave(self.caller, actor(self.caller), user=me, now=datetime.now(UTC))


class Ownership(OrganizationEndpoint):
    """Of the organization."""

    actions = {"POST": Action.MANAGE_OWNERS}  # noqa: RUF012

    @extend_schema(
        operation_id="ownership_transfer",
        tags=_TAGS,
        summary="Pass the ownership on",
        request=Transfer,
        responses={204: None},
    )
    async def post(self, request: HttpRequest) -> HttpResponse:
        """To another member."""
        form = await body(request, Transfer)
        await in_thread(self._pass, form.user)
        return HttpResponse(status=204)

    def _pass(self, taker: int) -> None:
        me, by = self.caller.user or 0, actor(self.caller)
        members.pass_ownership(self.caller, by, giver=me, taker=taker, now=datetime.now(UTC))


def _member(member: Membership) -> dict[str, Any]:
    return {
        "user": member.user_id,
        "email": member.user.email,
        "role": member.role,
        "requests_per_minute": member.requests_per_minute,
        "tokens_per_minute": member.tokens_per_minute,
        "concurrent_requests": member.concurrent_requests,
        "since": member.created_at,
    }
