"""/api/v1/auth: people log in, renew their tokens, and log out."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import extend_schema
from pydantic import BaseModel, ConfigDict, Field

from kit.edge import Endpoint, Json, body
from kit.threads import in_thread
from tenants import logins, throttle
from tenants.auth import authenticate_person
from tenants.models import Membership, User
from tenants.tokens import Pair

_TAGS = ["Log-in"]


class Credentials(BaseModel):
    """Who, and the proof."""

    model_config = ConfigDict(extra="forbid")

    email: str = Field(min_length=3, max_length=254, pattern=r"^[^\x00\s]+@[^\x00\s]+$")
    password: str = Field(min_length=1, max_length=1024)
    code: str = Field(
        "",
        max_length=32,
        description="Of the authenticator app, or a recovery code, where a second factor is set.",
    )


class Refresh(BaseModel):
    """A refresh token."""

    model_config = ConfigDict(extra="forbid")

    refresh: str = Field(min_length=1, max_length=1024)


class Tokens(BaseModel):
    """Send `access` as the Bearer token, with `X-Organization`; `refresh` is good once."""

    access: str
    refresh: str
    token_type: str = "Bearer"  # noqa: S105
    expires_in: int = Field(description="Seconds that the access token is good for.")


class Place(BaseModel):
    """An organization that the person belongs to."""

    slug: str
    name: str
    role: str


class Me(BaseModel):
    """The person who is logged in."""

    id: int
    email: str
    organizations: list[Place]


class LogInEndpoint(Endpoint):
    """With e-mail address and password."""

    @extend_schema(
        operation_id="log_in",
        tags=_TAGS,
        summary="Log in",
        request=Credentials,
        responses=Tokens,
        auth=[],
    )
    async def post(self, request: HttpRequest) -> Json:
        """A pair of tokens."""
        form = await body(request, Credentials)
        await throttle.attempt(form.email)
        pair = await in_thread(
            logins.begin,
            email=form.email,
            password=form.password,
            code=form.code,
            now=datetime.now(UTC),
        )
        await throttle.succeeded(form.email)
        return _tokens(pair)


class Renewal(Endpoint):
    """With a refresh token."""

    @extend_schema(
        operation_id="log_in_renew",
        tags=_TAGS,
        summary="Renew the tokens",
        description="A refresh token that comes again ends the log-in: it is in two hands.",
        request=Refresh,
        responses=Tokens,
        auth=[],
    )
    async def post(self, request: HttpRequest) -> Json:
        """The next pair."""
        form = await body(request, Refresh)
        return _tokens(await in_thread(logins.renew, form.refresh, now=datetime.now(UTC)))


class LogOut(Endpoint):
    """With a refresh token."""

    @extend_schema(
        operation_id="log_out",
        tags=_TAGS,
        summary="Log out",
        description="Access tokens of this log-in are refused within a second too.",
        request=Refresh,
        responses={204: None},
        auth=[],
    )
    async def post(self, request: HttpRequest) -> HttpResponse:
        """Nothing more to say."""
        form = await body(request, Refresh)
        await in_thread(logins.end, form.refresh, now=datetime.now(UTC))
        return HttpResponse(status=204)


class Myself(Endpoint):
    """Whoever is logged in; needs no organization."""

    @extend_schema(operation_id="me", tags=_TAGS, summary="Who am I", responses=Me)
    async def get(self, request: HttpRequest) -> Json:
        """And where I belong."""
        user = await authenticate_person(request.headers.get("Authorization"))
        return Json(await in_thread(_me, user))


def _me(identifier: int) -> Mapping[str, Any]:
    user = User.objects.get(pk=identifier)
    places = Membership.objects.across_organizations().filter(user=user)
    return {
        "id": user.pk,
        "email": user.email,
        "organizations": [
            {"slug": each.organization.slug, "name": each.organization.name, "role": each.role}
            for each in places.select_related("organization").order_by("organization__slug")
        ],
    }


def _tokens(pair: Pair) -> Json:
    data = {
        "access": pair.access,
        "refresh": pair.refresh,
        "token_type": "Bearer",
        "expires_in": pair.seconds,
    }
    return Json(data, headers={"Cache-Control": "no-store"})
