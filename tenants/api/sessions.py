"""/api/v1/auth/sessions: a person's open log-ins, and ending them."""

from collections.abc import Sequence
from datetime import UTC, datetime

from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import extend_schema
from pydantic import BaseModel, Field

from kit.edge import Endpoint, Json
from kit.threads import in_thread
from tenants import audit, logins
from tenants.auth import claims_of
from tenants.devices import device
from tenants.models import User

_TAGS = ["Log-in"]


class Session(BaseModel):
    """A log-in that is open."""

    id: str
    door: str = Field(description="Where: api, portal or admin.")
    device: str = Field(examples=["Firefox on Linux"])
    agent: str
    address: str
    created_at: str
    seen_at: str = Field(description="When it was last used, a minute behind for browsers.")
    current: bool = Field(description="Whether it is the one whose token this request has.")


class SessionList(BaseModel):
    """The last seen first."""

    data: list[Session]


class Ended(BaseModel):
    """What was done."""

    ended: int = Field(description="How many log-ins.", examples=[2])


class Sessions(Endpoint):
    """Whoever is logged in; needs no organization."""

    @extend_schema(
        operation_id="sessions_list",
        tags=_TAGS,
        summary="Where I am logged in",
        description="Browsers' log-ins too.",
        responses=SessionList,
    )
    async def get(self, request: HttpRequest) -> Json:
        """All of them."""
        claims = await claims_of(request.headers.get("Authorization"))
        rows = await in_thread(_shown, claims.user, claims.login)
        return Json(SessionList(data=list(rows)).model_dump())

    @extend_schema(
        operation_id="sessions_end_others",
        tags=_TAGS,
        summary="Log out everywhere else",
        description="Within a second; browsers too. The log-in that asks stays.",
        responses={200: Ended},
    )
    async def delete(self, request: HttpRequest) -> Json:
        """All but the one that asks."""
        claims = await claims_of(request.headers.get("Authorization"))
        return Json({"ended": await in_thread(_end_others, claims.user, claims.login)})


class OneSession(Endpoint):
    """One log-in of whoever is logged in."""

    @extend_schema(
        operation_id="sessions_end",
        tags=_TAGS,
        summary="Log out there",
        description="Within a second. May be the log-in that asks.",
        responses={204: None},
    )
    async def delete(self, request: HttpRequest, identifier: str) -> HttpResponse:
        """404 where it is not the person's, or has ended."""
        claims = await claims_of(request.headers.get("Authorization"))
        await in_thread(_end, claims.user, identifier)
        return HttpResponse(status=204)


def _shown(user: int, current: str) -> Sequence[Session]:
    now = datetime.now(UTC)
    return [
        Session(
            id=str(each.pk),
            door=each.door,
            device=device(each.agent),
            agent=each.agent,
            address=each.address,
            created_at=each.created_at.isoformat(),
            seen_at=each.refreshed_at.isoformat(),
            current=str(each.pk) == current,
        )
        for each in logins.open_of(User.objects.get(pk=user), now=now)
    ]


def _end_others(user: int, but: str) -> int:
    who = User.objects.get(pk=user)
    return logins.end_others(who, but=but, now=datetime.now(UTC), by=audit.person(who))


def _end(user: int, identifier: str) -> None:
    who = User.objects.get(pk=user)
    logins.end_one(who, identifier, now=datetime.now(UTC), by=audit.person(who))
